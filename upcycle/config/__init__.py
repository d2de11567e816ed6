"""The configuration of a run: typed sections, checks, files and presets.

It may import the modules directly under `upcycle` alone.
"""
