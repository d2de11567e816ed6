"""Comparison with other replay systems."""
