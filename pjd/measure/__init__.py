"""What is measured: fidelity to the AR model, image quality, attention."""
