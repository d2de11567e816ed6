"""What a run came to: `summary.json`, a contract for programs, and the same in a few sentences for people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from orchestrator.baselines import Baselines, teachers_of
from orchestrator.reports.selected_version import GivenBack, complete, cost_of, describe_cost, end_of, is_the_end
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import write_atomically
from upcycle.runs.run_folder import RunFolder
from upcycle.statistics import Interval, mean_interval

Summary = dict[str, Any]
"""Keys, always all of them:

  run_id, env_id (EnvPool task), preset, phases_wanted (names in order), state (of the run's manifest)
  teacher: {id, score}, the best of several, or null; random_score: mean raw return or null
  teachers: [{id, score}] of all teachers, in the order of the configuration, score null of a buffer without a policy;
    empty in a run from scratch
  scores: [{phase, env_frames, learner_steps, policy_version, mean_return, normalised, episodes, interval: [low, high]}]
    of all evaluations, in order; the last one is the newest of the run
  phases: [{phase, learner_steps, env_frames, seconds, teacher_states, ...}] of the phases that have ended, each counted
    alone; teacher_states are the states that teachers' networks were given, see `RunFolder.write_phases`
  final: `GivenBack`, the version given back with its own phase and counts, or null without a
    score
  wall_seconds, env_frames, learner_steps: of the whole run, which the version given back may have cost a part of
  samples_per_insert (or null), versions: {package: version}
  timings: of the run's last stretch, how long it took to start and to end, see `timings.TimingsRecord`; null of a run
    that has not finished. Its moments are seconds since the command began

Returns are raw; `normalised` puts random play at 0 and the teacher at 1 (null without a teacher); intervals are 95 %
bootstrap intervals of the mean.
"""

_SCORE_KEYS = ("phase", "env_frames", "learner_steps", "policy_version", "mean_return", "normalised", "episodes")


def summarise(
    folder: RunFolder,
    *,
    env_frames: int | None = None,
    learner_steps: int | None = None,
    samples_per_insert: float | None = None,
    wall_seconds: float | None = None,
) -> Summary:
    """What is known about a run now, finished or not; counts that are not given are the largest that its files name."""
    config, manifest, scores = folder.config, folder.manifest, folder.scores()
    teacher = cast(dict[str, Any] | None, manifest.get("teacher"))
    random_score = cast(float | None, manifest.get("random_score"))
    finals = [record for record in scores if record.get("kind") == "final"]
    evaluations = [record for record in scores if record.get("kind") == "evaluation"]
    ended = folder.phases()
    of_final = [*evaluations, *finals][-1:] if finals or evaluations else []
    return {
        "run_id": manifest["run_id"],
        "env_id": config.env.task,
        "preset": manifest.get("preset"),
        "phases_wanted": list(config.phases),
        "state": manifest["state"],
        "teacher": _of_teacher(teacher) if teacher else None,
        "teachers": [_of_teacher(known) for known in teachers_of(manifest)],
        "random_score": random_score,
        "scores": [_score(record) for record in evaluations],
        "phases": ended,
        "final": _given_back(of_final[0], folder, teacher, random_score) if of_final else None,
        "wall_seconds": wall_seconds if wall_seconds is not None else manifest.get("wall_seconds"),
        "env_frames": env_frames if env_frames is not None else _total("env_frames", scores, ended),
        "learner_steps": learner_steps if learner_steps is not None else _total("learner_steps", scores, ended),
        "samples_per_insert": samples_per_insert,
        "versions": manifest.get("versions", {}),
        "timings": None,
    }


def write_summary(
    folder: RunFolder,
    *,
    env_frames: int | None = None,
    learner_steps: int | None = None,
    samples_per_insert: float | None = None,
    wall_seconds: float | None = None,
) -> Summary:
    """Writes `summary.json`, atomically, and returns it. Arguments as of `summarise`."""
    summary = summarise(
        folder,
        env_frames=env_frames,
        learner_steps=learner_steps,
        samples_per_insert=samples_per_insert,
        wall_seconds=wall_seconds,
    )
    return save_summary(folder, summary)


def save_summary(folder: RunFolder, summary: Summary) -> Summary:
    """Writes a summary as the run's, atomically, and returns it."""
    write_atomically(folder.summary, json.dumps(summary, indent=2, allow_nan=False).encode() + b"\n")
    return summary


def read_summary(path: Path) -> Summary:
    """A summary from its file, or of the run in a folder; a run that has gone on since is summarised as it stands.

    Raises: UserError if there is neither; CorruptDataError if the file is no summary.
    """
    if path.is_dir():
        folder = RunFolder.open(path)
        now = summarise(folder)
        if not folder.summary.exists():
            return now
        written = read_summary(folder.summary)
        same = all(written[key] == now[key] for key in ("scores", "final"))
        return written if same else now
    if not path.is_file():
        raise UserError("summary", str(path), "there is no such run or summary", "name a run folder or a summary.json")
    try:
        summary = cast(Summary, json.loads(path.read_bytes()))
        missing = {"run_id", "env_id", "scores", "final", "env_frames"} - set(summary)
    except (ValueError, TypeError) as error:
        raise CorruptDataError(f"{path}: not a summary ({error})") from error
    if missing:
        raise CorruptDataError(f"{path}: not a summary ({', '.join(sorted(missing))} missing)")
    complete(summary)
    return summary


def plain_words(summary: Summary) -> list[str]:
    """A few sentences: what was reached, what that means, what that version took, and where the run ended."""
    cost = [] if summary["final"] is None else [_cost(summary)]
    return [_reached(summary), _meaning(summary), *cost, _end(summary)]


def format_seconds(seconds: float | None) -> str:
    """A duration as people say it."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _of_teacher(known: Mapping[str, Any]) -> Summary:
    return {"id": known["id"], "score": known["score"]}


def _given_back(
    record: Mapping[str, Any], folder: RunFolder, teacher: Mapping[str, Any] | None, random: float | None
) -> GivenBack:
    score = _score(record)
    cost = cost_of(record, folder.phases(), folder.config.phases)
    return {
        "kind": "final" if record["kind"] == "final" else "evaluation",
        "mean_return": score["mean_return"],
        "normalised": score["normalised"],
        "episodes": score["episodes"],
        "policy_version": score["policy_version"],
        "interval": score["interval"],
        "normalised_interval": _normalised_interval(score["interval"], teacher, random),
        "phase": cost["phase"],
        "env_frames": cost["env_frames"],
        "learner_steps": cost["learner_steps"],
        "offline_learner_steps": cost["offline_learner_steps"],
    }


def _total(key: str, scores: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]]) -> int:
    """Of the whole run: the version scored last may be an early one."""
    return max([int(record[key]) for record in scores] + [sum(int(phase[key]) for phase in ended)])


def _score(record: Mapping[str, Any]) -> Summary:
    values = {key: record.get(key) for key in _SCORE_KEYS}
    returns = cast(Sequence[float], record.get("returns") or [record["mean_return"]])
    interval = mean_interval(returns)
    return values | {"interval": [interval.low, interval.high]}


def _normalised_interval(interval: list[float], teacher: Mapping[str, Any] | None, random: float | None) -> Any:
    if teacher is None or random is None:
        return None
    baselines = Baselines(random=random, teacher=float(teacher["score"]))
    return [baselines.normalise(end) for end in interval]


def _reached(summary: Summary) -> str:
    final, teacher, random = summary["final"], summary.get("teacher"), summary.get("random_score")
    if final is None:
        return f"No evaluation of this run on {summary['env_id']} has finished yet."
    interval, whose = Interval(*final["interval"]), "The student" if summary.get("teachers") or teacher else "The agent"
    given = "given back" if final["kind"] == "final" else "evaluated last: the run has not ended"
    who = f"{whose} (policy version {final['policy_version']}, {given})"
    sentence = (
        f"{who} scores {final['mean_return']:.1f} on {summary['env_id']} "
        f"({final['episodes']} games, 95 % interval {interval.low:.1f} to {interval.high:.1f})"
    )
    others = [f"{_whom(summary)} scores {teacher['score']:.1f}"] if teacher else []
    others += [f"random play {'scores ' if not teacher else ''}{random:.1f}"] if random is not None else []
    return sentence + ("; " + " and ".join(others) if others else "") + "."


def _whom(summary: Summary) -> str:
    """Whom a student is compared with; summaries of old have no key `teachers`."""
    return "its best teacher" if len(summary.get("teachers", [])) > 1 else "its teacher"


def _meaning(summary: Summary) -> str:
    final, teacher = summary["final"], summary.get("teacher")
    if teacher is None and summary.get("teachers"):
        return f"Its teacher {summary['teachers'][0]['id']} left a buffer and no policy: there is no score to reach."
    if teacher is None:
        return "It has no teacher: it was trained from scratch."
    if final is None or final["normalised"] is None:
        return f"How that compares with {_whom(summary)} {teacher['id']} is not known yet."
    whom = _whom(summary)
    scale = f"With random play at 0 and the teacher at 1 it stands at {final['normalised']:.2f}"
    if final["normalised"] >= 1.0:
        return f"{scale}: it has reached {whom}."
    if final["normalised_interval"] and final["normalised_interval"][1] >= 1.0:
        return f"{scale}: level with {whom}, within the evaluation's interval."
    return f"{scale}: it is still below {whom}."


def _cost(summary: Summary) -> str:
    return f"Policy version {summary['final']['policy_version']} took {describe_cost(summary)}."


def _end(summary: Summary) -> str:
    phases = [f"{phase['phase']} {format_seconds(phase['seconds'])}" for phase in summary.get("phases", [])]
    seconds = format_seconds(summary.get("wall_seconds")) + (f" ({', '.join(phases)})" if phases else "")
    counts = f"{summary['env_frames']:,} environment frames and {summary.get('learner_steps', 0):,} updates"
    final, last = summary["final"], end_of(summary)
    if final is None or final["kind"] != "final":
        return f"The run stands at {counts}" + (
            f" after {seconds}." if summary.get("wall_seconds") is not None else "."
        )
    if is_the_end(summary):
        return f"That is where the run ended, after {seconds}."
    sentence = f"The whole run took {counts} in {seconds}"
    if last is None:
        return f"{sentence}; no later version was evaluated."
    interval = f"95 % interval {last['interval'][0]:.1f} to {last['interval'][1]:.1f}"
    return (
        f"{sentence}; its last evaluation, of policy version {last['policy_version']} after {last['env_frames']:,} "
        f"frames and {last['learner_steps']:,} updates, stands at {last['mean_return']:.1f} "
        f"({last['episodes']} games, {interval})."
    )
