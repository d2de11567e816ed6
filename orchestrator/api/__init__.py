"""The public Python API, whose names `upcycle` exports: teachers, experience logs, replay, runs, evaluation.

It may import every package and all rooms of the orchestrator but `cli`.
"""
