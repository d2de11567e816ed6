"""Shared vocabulary of Upcycle: chunks, windows, configuration, networks, logs, metrics. Imports nothing of ours."""

__version__ = "0.1.0"
