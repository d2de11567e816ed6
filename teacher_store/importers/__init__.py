"""Readers of the agents, datasets and replay logs that other frameworks have written."""
