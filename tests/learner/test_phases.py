"""The phase machine."""

import pytest

from learner.phases import PhaseMachine, Progress
from upcycle.config.run import RunConfig, TeacherConfig

CONFIG = RunConfig.model_validate(
    {
        "teacher": TeacherConfig(),
        "offline": {"learner_steps": 100},
        "online": {"env_frames": 1000},
        "rl": {"env_frames": 500, "stop_at_return": 10.0},
    }
)


def progress(steps: int = 0, frames: int = 0, *, weaned: bool = False, best: float | None = None) -> Progress:
    return Progress(learner_steps=steps, env_frames=frames, weaned=weaned, best_return=best)


def test_phases_end_by_their_own_counts() -> None:
    machine = PhaseMachine(CONFIG.phases)
    assert machine.current == "offline"
    assert not machine.is_over(CONFIG, progress(99, 10_000))
    assert machine.is_over(CONFIG, progress(100))
    machine.advance(progress(100))
    assert machine.current == "online"
    assert machine.had_offline_phase
    assert not machine.is_over(CONFIG, progress(5000, 999))
    assert machine.is_over(CONFIG, progress(5000, 1000))
    assert machine.is_over(CONFIG, progress(101, 1, weaned=True))
    machine.advance(progress(300, 700))
    assert not machine.is_over(CONFIG, progress(400, 1199))
    assert machine.is_over(CONFIG, progress(400, 1200))
    assert machine.is_over(CONFIG, progress(300, 701, best=10.0))
    machine.advance(progress(300, 1200))
    assert machine.current is None


def test_no_phase_is_over_for_its_frames_before_an_update() -> None:
    machine = PhaseMachine(CONFIG.phases, index=1, start_learner_steps=100)
    assert not machine.is_over(CONFIG, progress(100, 5000))
    assert machine.is_over(CONFIG, progress(100, 5000, weaned=True))
    assert machine.is_over(CONFIG, progress(101, 5000))
    machine.advance(progress(101, 5000))
    assert not machine.is_over(CONFIG, progress(101, 9000))
    assert machine.is_over(CONFIG, progress(102, 9000))


def test_an_offline_phase_without_updates_is_a_defect() -> None:
    with pytest.raises(RuntimeError, match="made no update"):
        PhaseMachine(CONFIG.phases).advance(progress(0))


def test_state_round_trip_goes_on_running() -> None:
    machine = PhaseMachine(CONFIG.phases)
    machine.advance(progress(100, 0))
    restored = PhaseMachine.from_state(machine.state_dict(), CONFIG.phases)
    assert restored == machine
    restored.advance(progress(200, 1000))
    assert restored.current == "rl"


def test_changed_phases_are_refused() -> None:
    with pytest.raises(ValueError, match="belongs to phases"):
        PhaseMachine.from_state(PhaseMachine(CONFIG.phases).state_dict(), ("rl",))
