"""Summaries, figures and pages of finished runs, workflows and lineages.

It may import no other room of the orchestrator.
"""
