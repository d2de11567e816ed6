"""What runs in each process of a run: actors, learner, replay shards, evaluator, each built from the run's folder.

It may import `teachers`.
"""
