"""Comparison with other replay systems, and with other people's statistics."""
