"""Benchmarks: each measures through the system's own front door and says what limits it."""
