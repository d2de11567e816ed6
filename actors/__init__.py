"""Actors: environment lanes, the behaviour policy, the chunk writer and the acting loop.

Imports upcycle and the replay service, never the learner.
"""
