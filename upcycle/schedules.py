"""Pure schedules: a count in, a value out."""


def linear(count: float, *, start: float, end: float, duration: float) -> float:
    """Falls (or rises) linearly from `start` at 0 to `end` at `duration`, and stays there."""
    return end + (start - end) * min(max(1.0 - count / duration, 0.0), 1.0)
