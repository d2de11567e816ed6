"""What is kept of a whole learner, all its ranks together: policy versions out, checkpoints out and in again.

Nothing leaves that is not finite. Every method is called by all ranks at the same point; files are the first one's.
"""

from typing import Any, Final

import structlog
import torch

from learner.checkpoint import CheckpointRef
from learner.finiteness import Fallbacks, NotFinite, find_not_finite
from learner.labels import TeacherLabels
from learner.ranks import Ranks
from learner.saving import Saving
from learner.standing import Standing
from learner.train_state import TrainState, generator_states, restore_generators
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder

_log = structlog.get_logger(__name__)

_NONE: Final = -1


class Keeping:
    """Publishes, saves and restores; goes back to the newest checkpoint where values are not finite.

    Attributes:
      fallbacks: how often it went back, and what to say about it.
      problem: what this rank has found not to be finite, in words; empty if nothing. Nothing is kept then.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        state: TrainState,
        standing: Standing,
        labels: TeacherLabels,
        saving: Saving,
        ranks: Ranks,
        metrics: Metrics,
    ) -> None:
        self._config, self._folder = config, folder
        self._state, self._standing, self._labels = state, standing, labels
        self._saving, self._ranks, self._metrics = saving, ranks, metrics
        self.fallbacks, self.problem = Fallbacks(), ""

    @property
    def policy_version(self) -> int:
        """The newest one."""
        return self._saving.policy_version

    @property
    def due(self) -> float:
        """Monotonic seconds at which the next checkpoint is to be written."""
        return self._saving.due

    def check(self, state: object) -> None:
        """Raises: NotFinite, on all ranks, if this, or anything before, is not finite on one of them."""
        if not self.problem and (place := find_not_finite(state)) is not None:
            self.problem = f"{place} was not finite"
        if any(bool(found) for found in self._ranks.gather(torch.tensor(int(bool(self.problem))))):
            raise self.not_finite()

    def not_finite(self) -> NotFinite:
        """What is to be raised where one of the ranks has a problem."""
        return NotFinite(self.problem or "something of another rank was not finite")

    def check_all(self) -> None:
        """Raises: NotFinite, on all ranks, if anything that training changes is not finite on one of them."""
        self.check(self._state.state_dict())

    def publish(self) -> None:
        """Makes the weights of now the next policy version, if the disk has room for it. Raises: NotFinite."""
        state = self._state.state_dict()
        self.check({name: state[name] for name in ("online_network", "policy_network") if name in state})
        if self._ranks.is_first:
            self._saving.publish(self._state.policy_network, self._standing.metadata(self._state.learner_steps))

    def save(self) -> None:
        """Writes a checkpoint, if the disk has room for it. Raises: NotFinite; RanksDiffer."""
        train_state, standing = self._state.state_dict(), self._standing.state_dict()
        self.check({"train_state": train_state, "standing": standing})  # first: what is not finite differs as well
        networks = (self._state.online_network, self._state.target_network)
        self._ranks.check_equal(parameter for network in networks for parameter in network.parameters())
        generators = self._ranks.gather(generator_states(self._state.device))
        teacher_states = self.count_labelled()
        if self._ranks.is_first:
            state = {
                "train_state": train_state,
                "standing": standing,
                "teacher_states": teacher_states,
                "generators": generators,
                "fallbacks": self.fallbacks.state_dict(),
            }
            self._saving.save(state, self._standing.counters(self._state.learner_steps))

    def record_phases(self) -> None:
        """Writes down which phases have ended, if the disk has room for it."""
        if self._ranks.is_first:
            self._saving.record_phases(self._standing.records)

    def raise_problem(self) -> None:
        """Raises: UserError if the disk was full meanwhile, which has stopped the learner."""
        if self._saving.problem is not None:
            raise self._saving.problem

    def restore(self) -> bool:
        """Goes on from the newest checkpoint that will do; says whether there is one.

        Raises: CorruptDataError if there are some and none of them will do; UserError for one of an older version.
        """
        step, found = self._find()
        if step != _NONE:
            state = self._take(*(found or self._saving.load(step)))
            self.fallbacks.load_state_dict(state.get("fallbacks", {}))
        if self._ranks.is_first:
            self.fallbacks.pass_over(self._saving.passed_over)
            self._standing.count_logged(self._folder.experience)
        return step != _NONE

    def go_back(self, problem: NotFinite) -> None:
        """To the newest checkpoint. Raises: UserError if there is none, or the problem has returned."""
        step, found = self._find()
        self.fallbacks.fall_back(
            problem,
            learner_steps=self._state.learner_steps,
            newest=step if step != _NONE else None,
            learning_rate=self._config.learner.learning_rate,
        )
        self._metrics.increment("learner_fallbacks_total")
        _log.error("not_finite", notice=self.fallbacks.notice)
        self._take(*(found or self._saving.load(step)))
        self.problem = ""
        if self._ranks.is_first:
            self._standing.count_logged(self._folder.experience)

    def count_labelled(self) -> int:
        """States that all ranks have given to the teachers in this run."""
        return sum(int(count) for count in self._ranks.gather(torch.tensor(self._labels.num_states)))

    def _find(self) -> tuple[int, tuple[CheckpointRef, dict[str, Any]] | None]:
        """The step of the newest checkpoint that will do, and on the first rank what is in it."""
        found = self._saving.load_newest() if self._ranks.is_first else None
        return self._ranks.from_first(_NONE if found is None else found[0].learner_steps), found

    def _take(self, ref: CheckpointRef, state: dict[str, Any]) -> dict[str, Any]:
        """Goes on from this checkpoint, and returns it."""
        if "standing" not in state:
            problem = f"its checkpoint {ref.path.name} was written by an older version"
            raise UserError("run", self._folder.path.name, problem, "publish it as a teacher and start a new run")
        self._state.load_state_dict(state["train_state"])
        self._standing.load_state_dict(state["standing"])
        self._labels.num_states = state["teacher_states"] if self._ranks.is_first else 0
        restore_generators(state["generators"][self._ranks.rank], self._state.device)
        self.record_phases()  # a phase may have ended since, or there was no room to say so
        _log.info("resumed", checkpoint=ref.path.name, **ref.counters)
        return state
