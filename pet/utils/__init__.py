"""Shared helpers; importing this package loads nothing heavy."""
