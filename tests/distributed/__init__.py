"""Several processes (gloo)."""
