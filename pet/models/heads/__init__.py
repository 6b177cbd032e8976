"""Heads: features to predictions."""
