"""Which runs are one design, and what a design does: train from scratch, fine-tune, or reincarnate. Pure."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from upcycle.config.run import RunConfig
from upcycle.errors import UserError

Panel = Literal["scratch", "fine_tuning", "reincarnation"]

_MACHINE_FIELDS: Final = {"checkpoint_seconds", "device", "memory_format", "compile", "threads", "ranks"}
_OF_A_RUN: Final[Any] = {
    "name": True,
    "seed": True,
    "env": {"task"},
    "teacher": {"id", "also"},
    "learner": _MACHINE_FIELDS,
    "cluster": True,
}
"""Fields that differ between the runs of one design: seeds and games, whose teachers differ with them, and machines."""
_AGENT_FIELDS: Final = {"optimizer", "loss", "n_step", "gamma", "double_q"}
_PROTOCOL_FIELDS: Final = {"frame_skip", "sticky_actions", "noop_max", "fire_reset", "max_episode_steps"}


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """What the workflow needs to know of a run.

    Attributes:
      run_id: its identity, which its teacher's record names as the maker.
      parent: `run_id` of the run that made its teacher; None from scratch, or if that is not known here.
      random_score: mean raw return of random play on its game.
      teacher_score: mean raw return of its teacher; None from scratch.
      frames: environment frames of each evaluation, ascending, at least one; 0 in the offline phase.
      returns: their mean raw returns.
      final_return: of the final evaluation, or of the last one where there is none.
      offline_steps: learner steps of the offline phase.
      given_back: of the version that scored `final_return`: kind, policy_version, phase, env_frames, learner_steps and
        offline_learner_steps, as of `orchestrator.reports.selected_version.GivenBack`.
    """

    name: str
    run_id: str
    parent: str | None
    config: RunConfig
    random_score: float
    teacher_score: float | None
    frames: tuple[int, ...]
    returns: tuple[float, ...]
    final_return: float
    offline_steps: int
    given_back: Mapping[str, Any]

    @property
    def game(self) -> str:
        """EnvPool task."""
        return self.config.env.task

    def return_at(self, frames: int) -> float:
        """Of the last evaluation at or before so many frames; there must be one."""
        return self.returns[int(np.searchsorted(self.frames, frames, side="right")) - 1]


def check_fit(runs: Sequence[WorkflowRun]) -> None:
    """Raises UserError if runs are there twice, or were not scored alike."""
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError("run", name, "is named twice", "name each run once")
    protocols = {run.name: _protocol(run.config) for run in runs}
    for name, protocol in protocols.items():
        for field, value in protocol.items():
            if value != protocols[names[0]][field]:
                problem = f"was evaluated with {field} = {value}, {names[0]} with {protocols[names[0]][field]}"
                raise UserError("run", name, problem, "report runs of one protocol together")


def _protocol(config: RunConfig) -> dict[str, Any]:
    """What scores depend on beside the policy."""
    env = config.env.model_dump(include=_PROTOCOL_FIELDS)
    return {f"env.{name}": value for name, value in env.items()} | {"evaluation.epsilon": config.evaluation.epsilon}


def panel_of(config: RunConfig) -> Panel:
    """What a run does with a teacher, if it has one."""
    if config.teacher is not None and config.teacher.reload != "nothing":
        return "fine_tuning"
    return "reincarnation" if {"offline", "online"} & set(config.phases) else "scratch"


def agent_of(config: RunConfig) -> str:
    """What makes two agents the same: network and learning rule. Rates may differ: reincarnation has its own."""
    rule = config.learner.model_dump(mode="json", include=_AGENT_FIELDS)
    return json.dumps([config.network.model_dump(mode="json"), rule], sort_keys=True)


def designs_of(runs: Sequence[WorkflowRun]) -> list[tuple[WorkflowRun, ...]]:
    """Runs of one design together, in the order of their first run.

    Two teachers on the same game make two designs. Raises: UserError if designs were not run on the same games.
    """
    groups = defaultdict[str, list[WorkflowRun]](list)
    for run in runs:
        groups[json.dumps(run.config.model_dump(mode="json", exclude=_OF_A_RUN), sort_keys=True)].append(run)
    designs = list[tuple[WorkflowRun, ...]]()
    for group in groups.values():
        if len({(run.game, _teacher(run)) for run in group}) == len({run.game for run in group}):
            designs.append(tuple(group))
            continue
        for teacher in dict.fromkeys(_teacher(run) for run in group):
            designs.append(tuple(run for run in group if _teacher(run) == teacher))
    games = {run.game for run in runs}
    for group in designs:
        missing = sorted(games - {run.game for run in group})
        if missing:
            problem = f"its design was not run on {', '.join(missing)}, others were"
            raise UserError("run", group[0].name, problem, "report designs over the same games")
    return designs


def _teacher(run: WorkflowRun) -> tuple[str, ...]:
    teacher = run.config.teacher
    return () if teacher is None or panel_of(run.config) == "scratch" else (teacher.id, *teacher.also)
