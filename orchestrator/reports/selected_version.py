"""The policy version that a run gives back: its score, what it cost, and the run's last evaluation beside it. Pure.

A run keeps its best version, not its last one. A score therefore stands beside the counts of its own version, never
beside the run's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

Phases = Sequence[Mapping[str, Any]]


class GivenBack(TypedDict):
    """A score and the cost of the version that earned it.

    Keys:
      kind: "final", or "evaluation": the run has not ended, and this is its newest evaluation.
      mean_return: raw; interval: [low, high], of its mean over `episodes` games.
      normalised: random play at 0, the teacher at 1, likewise normalised_interval; null without a teacher.
      policy_version: which version of the run.
      phase: that of its last learner step, "offline" if it has made no other.
      env_frames: environment frames that the run's own actors had played up to this version.
      learner_steps: updates that it has had; offline_learner_steps: those of them in the offline phase, on the
        teacher's buffer, which play no frames. Null where an old summary does not say.
    """

    kind: Literal["final", "evaluation"]
    mean_return: float
    normalised: float | None
    episodes: int
    policy_version: int
    interval: list[float]
    normalised_interval: list[float] | None
    phase: str | None
    env_frames: int | None
    learner_steps: int | None
    offline_learner_steps: int | None


COST: Final = ("phase", "env_frames", "learner_steps", "offline_learner_steps")


def cost_of(record: Mapping[str, Any], ended: Phases, wanted: Iterable[str]) -> dict[str, Any]:
    """The keys `COST` of a version.

    Args:
      record: of the version, with its own phase, env_frames and learner_steps (a line of `scores.jsonl`).
      ended: phases that have ended, as of `RunFolder.phases`.
      wanted: names of the run's phases.
    """
    steps, frames = int(record["learner_steps"]), int(record["env_frames"])
    limits = {str(phase["phase"]): int(phase["learner_steps"]) for phase in ended}
    name, total = str(record["phase"]), 0
    offline = min(steps, limits.get("offline", steps if name == "offline" else 0)) if "offline" in wanted else 0
    for phase, limit in limits.items():  # a version at the end of a phase is published as the first of the next
        total += limit
        if steps <= total:
            name = phase
            break
    return {"phase": name, "env_frames": frames, "learner_steps": steps, "offline_learner_steps": offline}


def complete(summary: dict[str, Any]) -> None:
    """Adds what summaries of old leave out of `final`, from the evaluation of its version, or else as null."""
    final = summary["final"]
    if final is None or "learner_steps" in final:
        return
    known = [score for score in summary["scores"] if score["policy_version"] == final.get("policy_version")]
    final["kind"] = "final"
    if known:
        final |= cost_of(known[-1], summary.get("phases", []), summary.get("phases_wanted", []))
    else:
        final |= dict.fromkeys(COST)


def used_no_frames(final: Mapping[str, Any]) -> bool:
    """Whether all that the version has learnt is from its teachers' buffers."""
    return final["env_frames"] == 0 and bool(final["offline_learner_steps"])


def is_the_end(summary: Mapping[str, Any]) -> bool:
    """Whether the version given back is the run's last state as well."""
    final = summary["final"]
    counts = ("env_frames", "learner_steps")
    return final is not None and all(final[key] == summary.get(key) for key in counts)


def end_of(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The run's last evaluation, where it is of another version than the one given back."""
    final, scores = summary["final"], summary["scores"]
    if final is None or not scores or scores[-1]["policy_version"] == final["policy_version"]:
        return None
    return scores[-1]


def describe_cost(summary: Mapping[str, Any]) -> str:
    """What the version given back took, in words without a verb."""
    final = summary["final"]
    if final["learner_steps"] is None:
        return "frames and updates that this summary does not name"
    frames, steps, offline = final["env_frames"], final["learner_steps"], final["offline_learner_steps"]
    buffer = "the teachers' buffers" if len(summary.get("teachers", [])) > 1 else "the teacher's buffer"
    if steps == 0:
        return f"{frames:,} environment frames and no update: it is what the run began with"
    if used_no_frames(final):
        return f"0 environment frames, {steps:,} updates on {buffer}: it has used no frames of its own"
    parts = f", {offline:,} of them on {buffer} before its first frame" if offline else ""
    return f"{frames:,} environment frames of its own and {steps:,} updates{parts}"
