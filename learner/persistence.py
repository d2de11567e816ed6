"""Policy versions, checkpoints and recovery of a whole learner, all ranks together.

Nothing is published or saved that is not finite. All ranks call each method at the same point; rank 0 owns the files.
"""

from typing import Any, Final

import structlog
import torch

from learner.artifacts import ArtifactWriter
from learner.checkpoint import CheckpointRef
from learner.finiteness import Fallbacks, NotFinite, find_not_finite
from learner.labels import TeacherLabels
from learner.ranks import Ranks
from learner.run_state import RunState
from learner.train_state import TrainState, generator_states, restore_generators
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder

_log = structlog.get_logger(__name__)

_NO_CHECKPOINT: Final = -1


class Persistence:
    """Publishes, saves and restores; rolls back to the newest checkpoint when a value is not finite.

    Attributes:
      fallbacks: how often it rolled back, and why.
      problem: a value of this rank that is not finite, in words; empty if there is none. It blocks saving on all ranks.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        *,
        train_state: TrainState,
        run_state: RunState,
        labels: TeacherLabels,
        artifacts: ArtifactWriter,
        ranks: Ranks,
        metrics: Metrics,
    ) -> None:
        self._config, self._folder = config, folder
        self._train_state, self._run_state, self._labels = train_state, run_state, labels
        self._artifacts, self._ranks, self._metrics = artifacts, ranks, metrics
        self.fallbacks, self.problem = Fallbacks(), ""

    @property
    def policy_version(self) -> int:
        """The newest policy version."""
        return self._artifacts.policy_version

    @property
    def checkpoint_due(self) -> float:
        """Monotonic seconds at which the next checkpoint is due."""
        return self._artifacts.checkpoint_due

    def check_finite(self, state: object) -> None:
        """Raises: NotFinite, on all ranks, if a value of `state`, or an earlier one, is not finite on any of them."""
        if not self.problem and (place := find_not_finite(state)) is not None:
            self.problem = f"{place} was not finite"
        if any(bool(found) for found in self._ranks.gather(torch.tensor(int(bool(self.problem))))):
            raise self.not_finite()

    def check_train_state(self) -> None:
        """Raises: NotFinite, on all ranks, if a value that training changes is not finite on any of them."""
        self.check_finite(self._train_state.state_dict())

    def not_finite(self) -> NotFinite:
        """The error to raise when any rank has a problem."""
        return NotFinite(self.problem or "a value of another rank was not finite")

    def publish(self) -> None:
        """Publishes the current weights as the next policy version, unless the disk is full. Raises: NotFinite."""
        state = self._train_state.state_dict()
        self.check_finite({name: state[name] for name in ("online_network", "policy_network") if name in state})
        if self._ranks.is_first:
            metadata = self._run_state.metadata(self._train_state.learner_steps)
            self._artifacts.publish(self._train_state.policy_network, metadata)

    def save(self) -> None:
        """Writes a checkpoint, unless the disk is full. Raises: NotFinite; RanksDiffer."""
        train_state, run_state = self._train_state.state_dict(), self._run_state.state_dict()
        # Before the comparison: NaN differs between ranks too, and this error is the one that explains it.
        self.check_finite({"train_state": train_state, "standing": run_state})
        networks = (self._train_state.online_network, self._train_state.target_network)
        self._ranks.check_equal(parameter for network in networks for parameter in network.parameters())
        generators = self._ranks.gather(generator_states(self._train_state.device))
        teacher_states = self.count_labelled()
        if self._ranks.is_first:
            state = {
                "train_state": train_state,
                "standing": run_state,
                "teacher_states": teacher_states,
                "generators": generators,
                "fallbacks": self.fallbacks.state_dict(),
            }
            self._artifacts.save(state, self._run_state.counters(self._train_state.learner_steps))

    def record_phases(self) -> None:
        """Writes the finished phases, unless the disk is full."""
        if self._ranks.is_first:
            self._artifacts.record_phases(self._run_state.records)

    def raise_disk_error(self) -> None:
        """Raises: UserError if a full disk has stopped the learner."""
        if self._artifacts.problem is not None:
            raise self._artifacts.problem

    def restore(self) -> bool:
        """Loads the newest usable checkpoint; returns whether there is one.

        Raises: CorruptDataError if there are checkpoints and none is usable; UserError for one of an older version.
        """
        step, found = self._find_newest()
        if step != _NO_CHECKPOINT:
            state = self._load(*(found or self._artifacts.load(step)))
            self.fallbacks.load_state_dict(state.get("fallbacks", {}))
        if self._ranks.is_first:
            self.fallbacks.pass_over(self._artifacts.passed_over)
            self._run_state.count_logged_frames(self._folder.experience)
        return step != _NO_CHECKPOINT

    def roll_back(self, problem: NotFinite) -> None:
        """Loads the newest checkpoint. Raises: UserError if there is none, or the problem has come back."""
        step, found = self._find_newest()
        self.fallbacks.fall_back(
            problem,
            learner_steps=self._train_state.learner_steps,
            newest=step if step != _NO_CHECKPOINT else None,
            learning_rate=self._config.learner.learning_rate,
        )
        self._metrics.increment("learner_fallbacks_total")
        _log.error("not_finite", notice=self.fallbacks.notice)
        self._load(*(found or self._artifacts.load(step)))
        self.problem = ""
        if self._ranks.is_first:
            self._run_state.count_logged_frames(self._folder.experience)

    def count_labelled(self) -> int:
        """States that the teachers have labelled in this run, over all ranks."""
        return sum(int(count) for count in self._ranks.gather(torch.tensor(self._labels.num_states)))

    def _find_newest(self) -> tuple[int, tuple[CheckpointRef, dict[str, Any]] | None]:
        """The step of the newest usable checkpoint, and on rank 0 its contents."""
        found = self._artifacts.load_newest() if self._ranks.is_first else None
        return self._ranks.broadcast(_NO_CHECKPOINT if found is None else found[0].learner_steps), found

    def _load(self, ref: CheckpointRef, state: dict[str, Any]) -> dict[str, Any]:
        if "standing" not in state:
            problem = f"its checkpoint {ref.path.name} was written by an older version"
            raise UserError("run", self._folder.path.name, problem, "publish it as a teacher and start a new run")
        self._train_state.load_state_dict(state["train_state"])
        self._run_state.load_state_dict(state["standing"])
        self._labels.num_states = state["teacher_states"] if self._ranks.is_first else 0
        restore_generators(state["generators"][self._ranks.rank], self._train_state.device)
        self.record_phases()  # a phase may have ended since, or the disk may have been full
        _log.info("resumed", checkpoint=ref.path.name, **ref.counters)
        return state
