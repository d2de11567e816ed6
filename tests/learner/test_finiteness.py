"""Nothing that is not finite is saved or published: a learner goes back, says so, and gives up when it returns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.checkpoint import CheckpointFolder
from learner.finiteness import Fallbacks, NotFinite, find_not_finite
from learner.train_state import TrainState
from learner.train_step import StepResult, train_step
from teacher_store.teacher import Teacher
from tests.helpers.cartpole_learner import BASE, new_learner, replay, run_folder
from upcycle.errors import CorruptDataError, UserError
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder, read_snapshot

pytestmark = pytest.mark.slow

NAN, INF = float("nan"), float("inf")
EVERY_STEP: dict[str, Any] = BASE["learner"] | {"checkpoint_seconds": 1e-6, "weight_average_decay": 0.9}


def unguarded(*_: object) -> None:
    """In place of what looks for values that are not finite: as it was once."""


@given(
    value=st.sampled_from([NAN, INF, -INF]),
    place=st.integers(0, 11),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_one_bad_value_is_found_wherever_it_is(value: float, place: int, dtype: torch.dtype) -> None:
    tensor = torch.arange(12, dtype=dtype).reshape(3, 4)
    state: dict[str, Any] = {
        "optimizer": {"state": {0: {"exp_avg": tensor, "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "generators": torch.full((5,), 255, dtype=torch.uint8),
        "empty": torch.zeros(0),
        "large": torch.full((2,), 3e38),
        "counts": {"steps": 5, "best": None, "name": "x"},
    }
    assert find_not_finite(state) is None
    tensor.view(-1)[place] = value
    assert find_not_finite(state) == "optimizer.state.0.exp_avg"
    tensor.view(-1)[place] = 0
    state["optimizer"]["param_groups"][0]["lr"] = value
    assert find_not_finite(state) == "optimizer.param_groups.0.lr"


def test_it_goes_back_once_and_again_only_when_the_trouble_lies_behind() -> None:
    fallbacks, problem = Fallbacks(), NotFinite("the loss was not finite")
    fallbacks.fall_back(problem, learner_steps=500, newest=400, learning_rate=0.5)
    assert fallbacks.notice == "at learner step 500 the loss was not finite; back to the checkpoint of step 400"
    with pytest.raises(UserError, match=r"learning_rate = 0.5: at learner step 480 .* at step 500, before .* step 400"):
        fallbacks.fall_back(problem, learner_steps=480, newest=400, learning_rate=0.5)
    with pytest.raises(UserError, match="at learner step 501"):
        fallbacks.fall_back(problem, learner_steps=501, newest=500, learning_rate=0.5)
    fallbacks.fall_back(problem, learner_steps=900, newest=501, learning_rate=0.5)
    assert fallbacks.count == 2
    with pytest.raises(UserError, match="before the first checkpoint"):
        Fallbacks().fall_back(problem, learner_steps=3, newest=None, learning_rate=0.5)


def test_a_checkpoint_is_finite_or_is_not(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(NotFinite, match=r"weights\.0 was not finite"):
        folder.save({"weights": [torch.tensor([1.0, NAN])]}, learner_steps=1, counters={})
    assert not list(tmp_path.iterdir())


def test_poisoned_checkpoints_of_older_versions_are_passed_over_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    with monkeypatch.context() as patch:
        patch.setattr("learner.checkpoint.find_not_finite", unguarded)
        for step, value in ((1, 1.0), (2, NAN), (3, INF)):
            folder.save({"weight": torch.tensor(value)}, learner_steps=step, counters={})
    found = folder.load_newest()
    assert found is not None
    assert (found[0].learner_steps, float(found[1]["weight"])) == (1, 1.0)
    assert folder.passed_over == [f"step-{step:010d}.pt holds values that are not finite (weight)" for step in (3, 2)]
    folder.save({"weight": torch.tensor(2.0)}, learner_steps=2, counters={})  # would else be the first to be removed
    again = folder.load_newest()
    assert again is not None
    assert (float(again[1]["weight"]), folder.passed_over) == (2.0, [])
    assert sorted(path.stem for path in tmp_path.glob("*.pt")) == ["step-0000000001", "step-0000000002"]
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(CorruptDataError, match=r"every checkpoint .*0002.pt is damaged; step-0000000001.pt"):
        folder.load_newest()


def in_weights(state: TrainState, result: StepResult) -> StepResult:
    next(iter(state.online_network.parameters())).data.view(-1)[0] = NAN
    return result


def in_average(state: TrainState, result: StepResult) -> StepResult:
    next(iter(state.policy_network.parameters())).data.view(-1)[0] = INF
    return result


def in_optimizer(state: TrainState, result: StepResult) -> StepResult:
    next(iter(state.optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = INF
    return result


def in_priorities(_: TrainState, result: StepResult) -> StepResult:
    return StepResult(torch.full_like(result.priorities, NAN), result.terms)


def in_loss(_: TrainState, result: StepResult) -> StepResult:
    return StepResult(result.priorities, result.terms * INF)


Poison = Callable[[TrainState, StepResult], StepResult]


def poisoned_at(steps: set[int], poison: Poison, monkeypatch: pytest.MonkeyPatch, stop: tuple[StopSignal, int]) -> None:
    """Spoils these calls of the train step, counted from 1, and stops the learner at that one."""
    taken = 0

    def step(state: TrainState, *arguments: Any, **options: Any) -> StepResult:
        nonlocal taken
        taken += 1
        result = train_step(state, *arguments, **options)
        if taken >= stop[1]:
            stop[0].set()
        return poison(state, result) if taken in steps else result

    monkeypatch.setattr("learner.learner.train_step", step)


def everything_is_finite(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Looks at every policy version when it is announced, whoever guards it; returns the versions seen."""
    versions, announce = list[int](), SnapshotFolder.publish

    def publish(self: SnapshotFolder, version: int, tensors: Any, metadata: Any) -> object:
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        versions.append(version)
        return announce(self, version, tensors, metadata)

    monkeypatch.setattr(SnapshotFolder, "publish", publish)
    return versions


@pytest.mark.parametrize("poison", [in_weights, in_average, in_optimizer, in_priorities, in_loss])
def test_a_learner_goes_back_to_its_last_finite_checkpoint_and_on(
    tmp_path: Path, experience: list[bytes], poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stop = run_folder(tmp_path, phases=["rl"], rl={"env_frames": 10**9}, learner=EVERY_STEP), StopSignal()
    monkeypatch.setattr("learner.learner.REPORT_PERIOD", 10)
    poisoned_at({40}, poison, monkeypatch, (stop, 80))
    versions = everything_is_finite(folder, monkeypatch)
    with replay("online", experience) as client:
        worker, metrics = new_learner(folder, client, stop=stop)
        worker.run()
        assert np.isfinite(client.stats("online").max_priority)
    status = worker.status()
    assert metrics.value("learner_fallbacks_total") == status["fallbacks"] == 1
    assert "at learner step 40 " in status["notice"]
    assert "not finite" in status["notice"]
    assert 75 <= status["learner_steps"] < 80
    assert len(versions) >= 2
    found = CheckpointFolder(folder.checkpoints).load_newest()
    assert found is not None
    assert (found[0].learner_steps, found[1]["fallbacks"]) == (status["learner_steps"], {"count": 1})
    assert all(np.isfinite(tensor).all() for tensor in read_snapshot(newest(folder)).tensors.values())


def newest(folder: RunFolder) -> Path:
    ref = SnapshotFolder(folder.snapshots).latest()
    assert ref is not None
    return folder.snapshots / ref.path


@pytest.mark.parametrize("phase", ["offline", "rl"])
def test_a_learner_gives_up_when_it_returns_and_leaves_what_is_finite(
    tmp_path: Path, teacher: Teacher, experience: list[bytes], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stop = run_folder(tmp_path, phases=[phase], rl={"env_frames": 10**9}, learner=EVERY_STEP), StopSignal()
    poisoned_at(set(range(20, 999)), in_weights, monkeypatch, (stop, 400))
    reason = r"learner.learning_rate = 0.003: at learner step 20 .*; so it was at step 20"
    with replay("teacher" if phase == "offline" else "online", experience) as client:
        worker, metrics = new_learner(folder, client, [teacher], stop)
        with pytest.raises(UserError, match=reason):
            worker.run()
    assert metrics.value("learner_fallbacks_total") == 1
    found = CheckpointFolder(folder.checkpoints).load_newest()
    assert found is not None
    assert found[0].learner_steps == 19
    assert not folder.phases()


def test_a_learner_whose_first_steps_are_not_finite_gives_up_at_once(
    tmp_path: Path, experience: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stop = run_folder(tmp_path, phases=["rl"], rl={"env_frames": 10**9}), StopSignal()
    poisoned_at({3}, in_priorities, monkeypatch, (stop, 400))
    with replay("online", experience) as client, pytest.raises(UserError, match="before the first checkpoint"):
        new_learner(folder, client, stop=stop)[0].run()


def test_a_run_resumes_from_the_checkpoint_before_a_poisoned_one(
    tmp_path: Path, experience: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stop = run_folder(tmp_path, phases=["rl"], rl={"env_frames": 10**9}, learner=EVERY_STEP), StopSignal()
    poisoned_at({12}, in_weights, monkeypatch, (stop, 12))
    with monkeypatch.context() as patch:  # as it was once
        for module in ("checkpoint", "persistence"):
            patch.setattr(f"learner.{module}.find_not_finite", unguarded)
        patch.setattr("upcycle.runs.snapshots.check_finite", unguarded)
        with replay("online", experience) as client:
            new_learner(folder, client, stop=stop)[0].run()
    poisoned_at(set(), in_weights, monkeypatch, (stop := StopSignal(), 5))
    with replay("online", experience) as client:
        worker, metrics = new_learner(folder, client, stop=stop)
        worker.run()
    status = worker.status()
    assert 11 < status["learner_steps"] <= 17
    assert metrics.value("learner_fallbacks_total") == status["fallbacks"] == 1
    assert "step-0000000012.pt holds values that are not finite" in status["notice"]
