"""The test suite; it mirrors the packages under ``pet/`` and the folders under ``tools/``."""
