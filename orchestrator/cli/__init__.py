"""The command line: one verb, one function, and how results are printed.

It may import every other room of the orchestrator; nothing imports it.
"""
