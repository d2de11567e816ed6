"""cpprb: a prioritised buffer inside the learner's process, so nothing is sent and nobody else can insert.

Variant "compressed" keeps each frame once (`stack_compress`, `next_of`), which is what it offers against our memory;
variant "full" keeps both stacks of every transition, which is what it is fastest with.
"""

import gc
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from cpprb import PrioritizedReplayBuffer

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
_NOTES = {
    "full": "in process, both stacks of each transition kept; n-step by the caller",
    "compressed": "in process, next_of and stack_compress; one-step next state (it has no n-step with stack_compress)",
}


def buffer(capacity: int, variant: str) -> Any:
    """An empty buffer."""
    # stack_compress demands the stack as the last axis.
    shape = (STACK, 84, 84) if variant == "full" else (84, 84, STACK)
    columns = {"obs": {"shape": shape, "dtype": np.uint8}, "act": {"dtype": np.int32}}
    columns |= {"rew": {"dtype": np.float32}, "done": {"dtype": np.float32}}
    if variant == "full":
        columns["next_obs"] = columns["obs"]
        return PrioritizedReplayBuffer(capacity, columns, alpha=PRIORITY_EXPONENT)
    return PrioritizedReplayBuffer(capacity, columns, next_of="obs", stack_compress="obs", alpha=PRIORITY_EXPONENT)


def inserter(subject: Any, log: FrameLog, stacked: Array, variant: str) -> Callable[[], int]:
    """A step that adds the next transitions, in order."""
    horizon = N_STEP if variant == "full" else 1
    last, at = len(stacked) - horizon - _INSERT, 0

    def step() -> int:
        nonlocal at
        rows = slice(at, at + _INSERT)
        first = at + STACK - 1  # row whose action is taken in the state that ends there
        taken = slice(first, first + _INSERT)
        subject.add(
            obs=stacked[rows],
            act=log.action[taken],
            rew=log.n_step_return[taken] if variant == "full" else log.reward[taken],
            next_obs=stacked[at + horizon : at + horizon + _INSERT],
            done=log.discount[taken] == 0 if variant == "full" else log.terminated[taken],
            priorities=log.priority[taken],
        )
        at += _INSERT
        if at > last:
            subject.on_episode_end()  # the log begins anew: frames are not consecutive here
            at = 0
        return _INSERT

    return step


def sampling(subject: Any, batch_size: int) -> Window:
    """Batches, as the arrays that it returns."""

    def step() -> int:
        return len(subject.sample(batch_size, IMPORTANCE_EXPONENT)["indexes"])

    return lambda seconds: timed(step, seconds=seconds)


def updating(subject: Any, batch_size: int) -> Window:
    """New priorities for the indexes of several batches in turn: the same ones again would change nothing."""

    def run(seconds: float) -> Rate:
        rng = np.random.default_rng(0)
        indexes = [subject.sample(batch_size, IMPORTANCE_EXPONENT)["indexes"] for _ in range(UPDATE_BATCHES)]
        # One more than there are index batches, so that no batch gets the same priorities twice in a row.
        priorities = [rng.random(batch_size) + 0.01 for _ in range(UPDATE_BATCHES + 1)]
        updates = zip(itertools.cycle(indexes), itertools.cycle(priorities), strict=False)

        def step() -> int:
            subject.update_priorities(*next(updates))
            return batch_size

        return timed(step, seconds=seconds)

    return run


def main(values: list[str]) -> None:
    """Fills the buffer, then measures on command."""
    log, stored, variant = arguments(values)
    stacked = stacks(log.frame, channels_last=variant != "full")
    gc.collect()
    before = resident_bytes(os.getpid())  # the buffer touches all of its memory when it is made
    subject = buffer(stored, variant)
    insert, added = inserter(subject, log, stacked, variant), 0
    while added < stored:
        added += insert()
    after = resident_bytes(os.getpid())
    windows: dict[str, Window] = {"insert": lambda seconds: timed(insert, seconds=seconds)}
    for size in BATCH_SIZES:
        windows[f"sample/{size}"] = sampling(subject, size)
        windows[f"update/{size}"] = updating(subject, size)
    facts = facts_line(
        versions=versions("cpprb"),
        note=_NOTES[variant],
        bytes_per_item=(after - before) / stored,
        operations=list(windows),
    )
    serve(windows, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
