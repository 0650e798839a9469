"""The embedded models' corpus and training."""
