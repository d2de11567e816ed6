"""torchrl: a buffer inside the learner's process. Its prioritised sampler where it loads, else uniform ones.

The prioritised sampler needs a C++ extension that must have been built for the installed torch; the published wheels
of the time of writing do not load under current ones. Then the samplers that work are measured, and the note says so:
they do less work than a prioritised one would.

Variant "full" keeps both stacks of every transition; variant "slices" keeps each frame once and samples runs of 7.
"""

import gc
import itertools
import os
import sys
from collections.abc import Callable

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, PrioritizedSampler, RandomSampler, SliceSampler, TensorDictReplayBuffer

from benchmarks.measure import Rate, Window, resident_bytes, timed
from benchmarks.peers.frame_log import (
    BATCH_SIZES,
    IMPORTANCE_EXPONENT,
    N_STEP,
    PRIORITY_EXPONENT,
    STACK,
    UPDATE_BATCHES,
    Array,
    FrameLog,
    arguments,
    facts_line,
    stacks,
    versions,
)
from benchmarks.workers import serve

_INSERT = 64
_WINDOW = STACK + N_STEP


def prioritised(capacity: int) -> PrioritizedSampler | None:
    """The prioritised sampler; None where its C++ extension does not load."""
    try:
        return PrioritizedSampler(capacity, alpha=PRIORITY_EXPONENT, beta=IMPORTANCE_EXPONENT)
    except RuntimeError as error:
        print(f"no prioritised sampler: {error}", file=sys.stderr)
        return None


def rows(log: FrameLog, stacked: Array | None, at: int) -> TensorDict:
    """The next transitions, or the next frames."""
    if stacked is None:
        columns = {
            "frame": torch.from_numpy(log.frame[at : at + _INSERT]),
            "action": torch.from_numpy(log.action[at : at + _INSERT]),
            "reward": torch.from_numpy(log.reward[at : at + _INSERT]),
            "terminated": torch.from_numpy(log.terminated[at : at + _INSERT]),
            "trajectory": torch.zeros(_INSERT, dtype=torch.int64),
        }
        return TensorDict(columns, batch_size=[_INSERT])
    taken = slice(at + STACK - 1, at + STACK - 1 + _INSERT)
    columns = {
        "observation": torch.from_numpy(stacked[at : at + _INSERT]),
        "next_observation": torch.from_numpy(stacked[at + N_STEP : at + N_STEP + _INSERT]),
        "action": torch.from_numpy(log.action[taken]),
        "n_step_return": torch.from_numpy(log.n_step_return[taken]),
        "discount": torch.from_numpy(log.discount[taken]),
    }
    return TensorDict(columns, batch_size=[_INSERT])


def inserter(subject: TensorDictReplayBuffer, log: FrameLog, variant: str) -> Callable[[], int]:
    """A step that extends the buffer by the next rows."""
    stacked = None if variant == "slices" else stacks(log.frame)
    at, last = 0, len(log) - _INSERT - _WINDOW

    def step() -> int:
        nonlocal at
        subject.extend(rows(log, stacked, at))
        at = at + _INSERT if at + _INSERT <= last else 0
        return _INSERT

    return step


def sampling(subject: TensorDictReplayBuffer, batch_size: int, variant: str) -> Window:
    """Batches of transitions; a slice of 7 frames is one."""
    frames = batch_size * (_WINDOW if variant == "slices" else 1)

    def step() -> int:
        return subject.sample(frames).numel() * batch_size // frames

    return lambda seconds: timed(step, seconds=seconds)


def updating(subject: TensorDictReplayBuffer, batch_size: int) -> Window:
    """New priorities for the indices of several batches in turn: the same ones again would change nothing."""

    def run(seconds: float) -> Rate:
        indices = [subject.sample(batch_size)["index"] for _ in range(UPDATE_BATCHES)]
        priorities = [torch.rand(batch_size) + 0.01 for _ in range(UPDATE_BATCHES + 1)]
        updates = zip(itertools.cycle(indices), itertools.cycle(priorities), strict=False)

        def step() -> int:
            subject.update_priority(*next(updates))
            return batch_size

        return timed(step, seconds=seconds)

    return run


def main(values: list[str]) -> None:
    """Fills the buffer, then measures on command."""
    log, stored, variant = arguments(values)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one core, as for the other buffers in the learner's process
    ranked = prioritised(stored) if variant == "full" else None
    if variant == "slices":
        sampler = SliceSampler(slice_len=_WINDOW, traj_key="trajectory", cache_values=False)
        note = "in process, frames kept once, UNIFORM slices of 7 (not prioritised)"
    elif ranked is None:
        sampler = RandomSampler()
        note = "in process, both stacks kept, UNIFORM: its prioritised sampler does not load under this torch"
    else:
        sampler, note = ranked, "in process, both stacks kept, prioritised"
    subject = TensorDictReplayBuffer(storage=LazyTensorStorage(stored), sampler=sampler, batch_size=BATCH_SIZES[0])
    insert, added = inserter(subject, log, variant), 0
    gc.collect()
    before = resident_bytes(os.getpid())
    while added < stored:
        added += insert()
    after = resident_bytes(os.getpid())
    windows: dict[str, Window] = {"insert": lambda seconds: timed(insert, seconds=seconds)}
    for size in BATCH_SIZES:
        windows[f"sample/{size}"] = sampling(subject, size, variant)
        if ranked is not None:
            windows[f"update/{size}"] = updating(subject, size)
    facts = facts_line(
        versions=versions("torchrl", "torch"),
        note=note,
        bytes_per_item=(after - before) / stored,
        operations=list(windows),
    )
    serve(windows, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
