"""One run from its plan to its end: the driver's loop, the supervisor, progress, scaling and the final evaluation.

It may import `cluster`, `processes`, `teachers` and `reports`.
"""
