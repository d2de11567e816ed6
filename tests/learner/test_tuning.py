"""Ways to compute: what the configuration leaves open, what is measured, what is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from learner.measured_tuning import measure, random_batch, tune
from learner.ranks import Ranks
from learner.tuning import Tuning, candidates, has_bfloat16, untuned
from upcycle.config.run import LearnerConfig, RunConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View
from upcycle.runs.run_folder import RunFolder

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SPEC = ChunkSpec(frame_shape=(42, 42), frame_dtype="uint8", num_actions=6, steps=16, history=3, lookahead=5)


def config(**learner: Any) -> RunConfig:
    network = {"width": 0.25, "hidden": 16}
    return RunConfig.model_validate({"phases": ["rl"], "network": network, "learner": learner})


def test_nothing_is_open_where_everything_is_said() -> None:
    said = LearnerConfig(threads=3, memory_format="channels_last", precision="float32", compile="on")
    assert candidates(said, CPU, cores=8) == [Tuning(3, channels_last=True, compiled=True)]


def test_what_is_left_open_is_tried_the_plainest_first() -> None:
    ways = candidates(LearnerConfig(threads=0, memory_format="auto", compile="auto"), CPU, cores=6)
    assert ways[0] == Tuning(threads=1)
    assert [way.threads for way in ways[:4]] == [1, 2, 4, 6]
    assert len(ways) == len(set(ways)) == 4 * 2 * 2
    assert untuned(LearnerConfig(memory_format="auto"), CPU) == Tuning(threads=1)


def test_bfloat16_is_taken_where_the_device_multiplies_it() -> None:
    (way,) = candidates(LearnerConfig(precision="auto", memory_format="contiguous"), CPU, cores=1)
    assert way.bfloat16 == has_bfloat16(CPU)


def test_a_batch_of_noise_has_the_shapes_of_replay() -> None:
    batch = random_batch(SPEC, View(n_step=3, stack=4), 8, CPU)
    assert batch.frames.shape == (8, 7, 42, 42)
    assert (batch.observation.shape, batch.next_observation.shape) == ((8, 4, 42, 42), (8, 4, 42, 42))
    assert (batch.frames.dtype, batch.action.dtype) == (torch.uint8, torch.int64)


def test_measuring_moves_neither_the_generator_nor_the_threads() -> None:
    ways = candidates(LearnerConfig(threads=0, memory_format="contiguous"), CPU, cores=2)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    seconds = measure(config(), SPEC, CPU, ways, batch_size=4)
    assert set(seconds) == set(ways)
    assert min(seconds.values()) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_choice_is_kept_for_the_run_and_measured_anew_when_the_configuration_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_config = config(memory_format="auto", batch_size=4)
    folder, asked = RunFolder.create(tmp_path / "run", open_config), list[list[Tuning]]()

    def measured(
        _config: RunConfig, _spec: ChunkSpec, _device: torch.device, ways: list[Tuning], *, batch_size: int
    ) -> dict[Tuning, float]:
        assert batch_size == 4
        asked.append(ways)
        return {way: 1.0 - 0.5 * way.channels_last for way in ways}

    monkeypatch.setattr("learner.measured_tuning.measure", measured)
    for _ in range(2):
        chosen = tune(open_config, SPEC, folder, CPU, Ranks.single(), cores=2)
        assert chosen == Tuning(threads=1, channels_last=True)
    kept = folder.tuning()
    assert kept is not None
    assert kept["milliseconds"] == {
        "float32, contiguous, 1 thread": 1000.0,
        "float32, channels last, 1 thread": 500.0,
    }
    assert len(asked) == 1
    said = config(memory_format="contiguous", batch_size=4)
    assert tune(said, SPEC, folder, CPU, Ranks.single(), cores=2) == Tuning(threads=1)
    changed = config(memory_format="auto", threads=2, batch_size=4)
    assert tune(changed, SPEC, folder, CPU, Ranks.single(), cores=2) == Tuning(threads=2, channels_last=True)
    assert len(asked) == 2
