"""A teacher's record in a few words, for trees and pictures."""

from teacher_store.records.record import TeacherRecord


def describe_score(record: TeacherRecord) -> str:
    """Its score with its interval, in a few words."""
    if record.score is None:
        return "not scored"
    score = record.score
    return f"{score.mean_return:.1f} ({score.interval_low:.1f} to {score.interval_high:.1f})"


def describe_cost(record: TeacherRecord) -> str:
    """What the training of these weights took, their teachers' left out; "" where nobody knows."""
    made = record.provenance
    known = ((made.env_frames, "own frames"), (made.learner_steps, "updates"))
    return ", ".join(f"{count:,} {what}" for count, what in known if count is not None)


def describe_origin(record: TeacherRecord) -> str:
    """Task, policy, and what made it, in a few words."""
    made = record.provenance
    if made.source is not None:
        origin = f"imported from {made.source.format}"
    else:
        origin = f"run {made.run_id}" if made.run_id else "made by hand"
    if made.config_sha256 is not None:
        origin += f", configuration {made.config_sha256[:8]}"
    return f"{record.env.task}, {record.describe_policy()}; {origin}"
