"""Runs that could wait for a batch for ever are refused; all others draw, whoever of actors and learner is quicker."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from actors.chunk_writer import ChunkWriter
from actors.lanes import LaneRows
from orchestrator.processes.shard_set import ShardSet
from orchestrator.processes.table_configs import online_table
from orchestrator.run.drawing_checks import check_drawing
from replay_service.table.rate_limiter import Flow
from replay_service.table.table import Table
from upcycle.config.io import parse_config
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, Chunk, ChunkSpec
from upcycle.experience.windows import View

pytestmark = pytest.mark.slow

Sections = dict[str, dict[str, Any]]

FITTING: Sections = {
    "env": {"max_episode_steps": 10},
    "replay": {
        "num_shards": 2,
        "chunk_steps": 8,
        "max_n_step": 7,
        "capacity_steps": 64,
        "min_size_to_sample": 16,
        "samples_per_insert": 4.0,
        "error_buffer_steps": 40,
    },
    "learner": {"n_step": 3, "batch_size": 8, "prefetch_batches": 2, "batches_per_request": 1},
    "rl": {"env_frames": 100},
    "evaluation": {"period_frames": 0},
}


def config_of(sections: Sections) -> RunConfig:
    return parse_config({"phases": ["rl"], **sections})


def spec_of(config: RunConfig) -> ChunkSpec:
    steps, lookahead = config.replay.chunk_steps, config.replay.max_n_step
    return ChunkSpec((1,), "float32", 2, steps=steps, history=0, lookahead=lookahead)


def check(sections: Sections, *, frame_skip: int = 1) -> None:
    config = config_of(sections)
    check_drawing(config, spec_of(config), frame_skip=frame_skip)


def with_field(name: str, value: object) -> Sections:
    section, field = name.split(".")
    return FITTING | {section: FITTING.get(section, {}) | {field: value}}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("env.max_episode_steps", 2, r"env.max_episode_steps.*below learner.n_step"),
        ("learner.n_step", 11, r"below learner.n_step|above replay.max_n_step"),
        ("actors.recv_batch", 9, r"actors.recv_batch.*above actors.lanes"),
        ("rl.env_frames", 16, r"rl.env_frames.*before its first batch.*after 16 frames.*min_size_to_sample"),
        ("replay.error_buffer_steps", 15, r"replay.error_buffer_steps.*below one chunk of 8 steps"),
        ("replay.num_shards", 6, r"replay.error_buffer_steps.*below one chunk of 8 steps"),
        ("replay.samples_per_insert", 0.5, r"error_buffer_steps.*samples in flight"),
    ],
)
def test_what_could_never_draw_is_refused_by_field(field: str, value: object, message: str) -> None:
    check(FITTING)
    with pytest.raises(UserError, match=message):
        check(with_field(field, value))


def test_frames_are_not_steps() -> None:
    check(with_field("rl.env_frames", 65), frame_skip=4)
    with pytest.raises(UserError, match=r"rl\.env_frames = 64.*after 64 frames"):
        check(with_field("rl.env_frames", 64), frame_skip=4)


def test_a_chunk_holds_more_steps_than_the_end_of_an_episode_spoils() -> None:
    sections = with_field("learner.n_step", 8)
    sections["replay"] = FITTING["replay"] | {"max_n_step": 8}
    with pytest.raises(UserError, match=r"learner\.n_step = 8.*not below the 8 steps of a chunk"):
        check(sections)
    sections["replay"] |= {"chunk_steps": 9}
    check(sections)


def test_buffers_that_do_not_divide_are_counted_in_whole_shares() -> None:
    odd = FITTING["replay"] | {"num_shards": 3, "samples_per_insert": 1.0, "error_buffer_steps": 26}
    learner = FITTING["learner"] | {"batch_size": 13, "prefetch_batches": 1}
    with pytest.raises(UserError, match=r"replay.error_buffer_steps = 26.*whole shares of 3 shards.*below the 26"):
        check(FITTING | {"replay": odd, "learner": learner})


def test_a_teachers_time_limit_counts_where_the_run_leaves_it_out() -> None:
    config = config_of(FITTING)
    config = config.model_copy(update={"env": config.env.model_copy(update={"max_episode_steps": 2})})
    with pytest.raises(UserError, match=r"env\.max_episode_steps = 2: is below learner\.n_step \(3\)"):
        check_drawing(config, spec_of(config), frame_skip=1)


@dataclass
class Actors:
    """Lanes whose episodes are cut off by the time limit, or end before it, in real chunks."""

    config: RunConfig
    lengths: list[int]  # of the episodes, in turn; none is above the time limit
    terminates: bool

    def __post_init__(self) -> None:
        self.lanes = self.config.actors.lanes
        self.writer = ChunkWriter(spec_of(self.config), self.lanes)
        self.step = np.zeros(self.lanes, np.int64)  # rows of the episode under way that have been sent
        self.episode = np.arange(self.lanes)

    def play(self) -> list[Chunk]:
        """One row of every lane; the chunks that they complete."""
        length = np.array([self.lengths[number % len(self.lengths)] for number in self.episode])
        first, ended = self.step == 0, self.step == length
        none = np.zeros(self.lanes, bool)
        rows = LaneRows(
            lane=np.arange(self.lanes),
            observation=np.zeros((self.lanes, 1, 1), np.float32),
            reward=np.zeros(self.lanes, np.float32),
            terminated=ended if self.terminates else none,
            truncated=none if self.terminates else ended,
            first=first,
            game_over=ended,
            lives=np.zeros(self.lanes, np.int32),
        )
        self.step = np.where(ended, 0, self.step + 1)
        self.episode = self.episode + ended
        action: Array = np.zeros(self.lanes, np.int64)
        return self.writer.push(rows, action)


class Replay:
    """The real tables of all shards, with the limiter's questions put to each as the clients put them."""

    def __init__(self, config: RunConfig) -> None:
        spec, shards = spec_of(config), ShardSet.first(config.replay.num_shards)
        self.view = View(n_step=config.learner.n_step, stack=1)
        self.steps = spec.steps
        self.tables = [
            Table(online_table(config, shards, index, width=0), spec, rng=np.random.default_rng(index))
            for index in shards.all
        ]
        self.num_inserted = self._sequence = 0

    def insert(self, chunk: Chunk) -> bool:
        """Into whichever table has room for a chunk; False if none has."""
        for table in self.tables[self._sequence % len(self.tables) :] + self.tables:
            if table.may_insert(self.steps):
                table.insert(chunk, writer_id="w", sequence=self._sequence)
                self._sequence += 1
                self.num_inserted += chunk.num_transitions(table.spec)
                return True
        return False

    def admit(self, wanted: int) -> int:
        """Samples that some table has room for; none before there is enough to begin with."""
        flows = [table.stats().flow for table in self.tables]
        total: Flow = sum(flows[1:], flows[0])
        admitted = 0
        for table in self.tables if total.is_filled else ():
            admitted += table.admit_samples(wanted - admitted)
        return admitted

    def can_draw(self) -> bool:
        """Whether a transition can be drawn with the learner's view."""
        return sum(len(table.draw(1, self.view).slot) for table in self.tables) > 0


def run(config: RunConfig, actors: Actors, bursts: list[int]) -> int:
    """Lets actors and learner go on by turns until the phase's frames are played; returns the learner's updates.

    Raises: AssertionError if neither can go on.
    """
    replay, held, updates, pending = Replay(config), 0, 0, list[Chunk]()
    together = config.learner.batch_size * config.learner.batches_per_request
    for turn in range(10_000):
        burst, inserted, drawn = bursts[turn % len(bursts)], 0, 0
        while inserted < burst:
            while not pending:
                pending = actors.play()
            if not replay.insert(pending[0]):
                break
            del pending[0]
            inserted += 1
        while drawn < burst:
            held += replay.admit(together - held)
            if held < together or not replay.can_draw():
                break
            held, drawn = 0, drawn + 1
        updates += drawn * config.learner.batches_per_request
        assert inserted or drawn, f"neither goes on: {[table.stats() for table in replay.tables]}"
        if replay.num_inserted >= config.rl.env_frames and updates:
            return updates
    raise AssertionError(f"the phase does not end: {replay.num_inserted} frames, {updates} updates")


@st.composite
def sections(draw: st.DrawFn) -> Sections:
    n_step = draw(st.integers(1, 12))
    return {
        "env": {"max_episode_steps": draw(st.integers(1, 14))},
        "replay": {
            "num_shards": draw(st.integers(1, 3)),
            "chunk_steps": draw(st.integers(8, 14)),
            "max_n_step": draw(st.integers(n_step, 14)),
            "capacity_steps": draw(st.integers(1, 80)),
            "min_size_to_sample": draw(st.integers(1, 60)),
            "samples_per_insert": draw(st.sampled_from([0.25, 0.7, 1.0, 3.0, 16.0])),
            "error_buffer_steps": draw(st.integers(8, 120)),
            "sampler": draw(st.sampled_from(["uniform", "proportional"])),
        },
        "actors": {"lanes": draw(st.integers(1, 3)), "initial_priorities": "max"},
        "learner": {
            "n_step": n_step,
            "batch_size": draw(st.integers(1, 6)),
            "prefetch_batches": draw(st.integers(1, 2)),
            "batches_per_request": draw(st.integers(1, 2)),
        },
        "rl": {"env_frames": draw(st.integers(1, 200))},
        "evaluation": {"period_frames": 0},
    }


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(
    values=sections(),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=3),
    cut_off=st.booleans(),
    bursts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_what_is_accepted_draws_and_never_stands_still(
    values: Sections, lengths: list[int], cut_off: bool, bursts: list[int]
) -> None:
    try:
        config = config_of(values)
        check_drawing(config, spec_of(config), frame_skip=1)
    except UserError:
        assume(False)
        raise
    limit = config.env.max_episode_steps
    # The worst that a time limit does is to cut off every episode; ends of the task's own may come at any step.
    actors = Actors(config, [limit] if cut_off else [min(length, limit) for length in lengths], not cut_off)
    assert run(config, actors, bursts) > 0


@pytest.mark.parametrize(
    ("n_step", "limit", "chunk_steps", "capacity"),
    [(5, 4, 8, 64), (10, 10, 8, 8)],  # episodes below the horizon; a chunk between two that can be drawn from
)
def test_what_is_refused_does_stand_still(n_step: int, limit: int, chunk_steps: int, capacity: int) -> None:
    config = config_of(FITTING)
    replay = {"num_shards": 1, "chunk_steps": chunk_steps, "max_n_step": n_step, "capacity_steps": capacity}
    config = config.model_copy(
        update={
            "env": config.env.model_copy(update={"max_episode_steps": limit}),
            "replay": config.replay.model_copy(update=replay | {"min_size_to_sample": 8}),
            "learner": config.learner.model_copy(update={"n_step": n_step}),
            "actors": config.actors.model_copy(update={"lanes": 1}),
            "rl": config.rl.model_copy(update={"env_frames": 1_000}),
        }
    )
    with pytest.raises(UserError):
        check_drawing(config, spec_of(config), frame_skip=1)
    stood_still = 0
    for burst in range(1, 40):  # at some of them the limiter stops the actors at the wrong moment
        try:
            run(config, Actors(config, [limit], terminates=False), [burst])
        except AssertionError as error:
            stood_still += "neither goes on" in str(error)
    assert stood_still
