"""Domains with a package of their own."""
