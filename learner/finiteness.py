"""Finds values that are not finite before anything is saved or published, and rolls back.

    loss, priorities, weights, optimizer --> NotFinite --> newest checkpoint --> again? --> give up

NaN spreads: one loss that is not finite makes every weight NaN, and the optimizer's averages never recover. A transient
fault does not come back after a roll-back; a learning rate that is too high does, and training would loop forever.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from upcycle.errors import UpcycleError, UserError

_REMEDY: Final = "lower it and resume the run; if rewards are large, begin a new one with env.clip_rewards=true"


class NotFinite(UpcycleError):
    """The learner has values that are NaN or infinite; nothing learnt from here on is worth keeping."""


def find_not_finite(state: object) -> str | None:
    """Path of a value that is not finite in nested dicts and lists of tensors and numbers, or None.

    Waits for the device, once for each kind of tensor.
    """
    groups = dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]]()
    for name, tensor in _floats(state, ""):
        groups.setdefault((tensor.device, tensor.dtype), []).append((name, tensor))
    for named in groups.values():
        extremes = torch.stack([end for _, tensor in named for end in torch.aminmax(tensor)])  # NaN passes through
        finite = torch.isfinite(extremes).cpu()
        if not bool(finite.all()):
            return named[int((~finite).nonzero()[0]) // 2][0]
    return None


def _floats(state: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every floating-point value of `state`, with its path."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and state.numel():
            yield name, state.detach()
    elif isinstance(state, float):
        yield name, torch.tensor(state, dtype=torch.float64)
    elif isinstance(state, Mapping):
        for key, value in cast("Mapping[object, object]", state).items():
            yield from _floats(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for number, value in enumerate(cast("Sequence[object]", state)):
            yield from _floats(value, f"{name}.{number}" if name else str(number))


@dataclass(slots=True)
class Fallbacks:
    """Counts roll-backs for values that were not finite, and decides whether another is allowed. Pure.

    Attributes:
      count: number of roll-backs.
      noticed_at: learner step of the newest roll-back; -1 before the first.
      notice: the newest roll-back, in one line; empty before the first.
    """

    count: int = 0
    noticed_at: int = -1
    notice: str = ""

    def fall_back(self, problem: NotFinite, *, learner_steps: int, newest: int | None, learning_rate: float) -> None:
        """Records a roll-back.

        Args:
          learner_steps: at which the problem was noticed.
          newest: learner step of the newest checkpoint, or None.
        Raises: UserError if there is no checkpoint, or no newer one has been written since the last roll-back.
        """
        reason = f"at learner step {learner_steps} {problem}"
        if newest is None:
            raise _give_up(learning_rate, f"{reason}, before the first checkpoint")
        if self.noticed_at >= 0 and newest <= self.noticed_at:
            before = f"so it was at step {self.noticed_at}, before it went back to step {newest}"
            raise _give_up(learning_rate, f"{reason}; {before}")
        self.count, self.noticed_at = self.count + 1, learner_steps
        self.notice = f"{reason}; back to the checkpoint of step {newest}"

    def pass_over(self, reasons: Sequence[str]) -> None:
        """Records newer checkpoints that were skipped at the start."""
        if reasons:
            self.count += len(reasons)
            self.notice = f"{'; '.join(reasons)}; back to the one before"

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; a resumed run may roll back again."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.count = int(state.get("count", 0))  # older versions kept none


def _give_up(learning_rate: float, problem: str) -> UserError:
    return UserError("learner.learning_rate", learning_rate, problem, _REMEDY)
