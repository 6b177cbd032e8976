"""Equality with reference implementations."""
