"""Making teachers: import, registration, parity checks, scores, publishing.

It may import no other room of the orchestrator.
"""
