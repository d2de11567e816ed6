"""Values that are not finite: found before anything is saved or published, and what happens then.

    loss, priorities, weights, optimizer --> NotFinite --> back to the newest checkpoint --> once more --> give up

NaN spreads: one loss that is not finite makes every weight so, and the optimizer's averages never recover. A fault of
the moment does not come back; a learning rate that is too high does, and training goes round in circles then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from upcycle.errors import UpcycleError, UserError

_REMEDY: Final = "lower it and resume the run; if rewards are large, begin a new one with env.clip_rewards=true"


class NotFinite(UpcycleError):
    """The learner has values that are NaN or infinite: nothing that is learnt from there on is worth keeping."""


def find_not_finite(state: object) -> str | None:
    """Where a value is that is not finite in nested dicts and lists of tensors and numbers, or None. Waits for the
    device, once for all tensors of one kind.
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
    """Everything in there that can be other than finite, with its place."""
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
    """How often a run went back to a checkpoint for values that were not finite, and whether it may again. Pure.

    Attributes:
      count: so often.
      noticed_at: learner step at which that was noticed last; -1 is never.
      notice: what happened last, in one line; empty if nothing has.
    """

    count: int = 0
    noticed_at: int = -1
    notice: str = ""

    def fall_back(self, problem: NotFinite, *, learner_steps: int, newest: int | None, learning_rate: float) -> None:
        """Takes note of a way back.

        Args:
          learner_steps: at which it was noticed.
          newest: learner step of the newest checkpoint; None if there is none.
        Raises: UserError where it ends: there is no checkpoint, or the trouble has returned before a later one than
          the last trouble was written.
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
        """Takes note of newer checkpoints that were passed over at the start."""
        if reasons:
            self.count += len(reasons)
            self.notice = f"{'; '.join(reasons)}; back to the one before"

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint: what lies behind a run that is resumed does not count against it."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.count = int(state.get("count", 0))  # older versions kept none


def _give_up(learning_rate: float, problem: str) -> UserError:
    return UserError("learner.learning_rate", learning_rate, problem, _REMEDY)
