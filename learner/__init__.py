"""The learner: losses, batches, the gradient step, and the loop around them.

Imports upcycle, the replay service's client and the teacher store, never the actors.
"""
