"""The training engine; importing this package loads nothing heavy."""
