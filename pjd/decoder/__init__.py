"""The paper: one decoding loop, and the choices by which the methods differ."""
