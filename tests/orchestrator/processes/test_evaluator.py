from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from actors.envs import env_spec
from actors.rollout import EpisodeResults, play_episodes
from orchestrator.baselines import Baselines
from orchestrator.processes.evaluator import Evaluator, evaluate_snapshot
from orchestrator.run.finish import final_evaluation
from orchestrator.run.progress import Progress, SilentView
from orchestrator.run.state import describe
from tests.helpers.runs import catch
from upcycle.config.run import EnvConfig, RunConfig
from upcycle.errors import CorruptDataError
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import Games, StopSignal
from upcycle.runs.snapshots import Snapshot, SnapshotFolder, read_snapshot

CONFIG = catch("evaluation.period_seconds=0.1")
BASELINES = Baselines(random=-0.5, teacher=1.0)


def weights(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    spec = env_spec(CONFIG.env)
    network = build_network(
        CONFIG.network, frame_shape=spec.frame_shape, stack=spec.stack, num_actions=spec.num_actions
    )
    return to_numpy(network.state_dict())


def metadata(version: int, *, phase: str = "online", env_frames: int = 1000) -> dict[str, str]:
    counts = {"env_frames": str(env_frames), "learner_steps": "50"}
    return {"policy_version": str(version), "phase": phase, **counts}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG)


def evaluate(version: int, stop: StopSignal | None = None) -> dict[str, Any] | None:
    snapshot = Snapshot(weights(), metadata(version))
    stop = stop or StopSignal()
    return evaluate_snapshot(CONFIG, snapshot, BASELINES, episodes=6, kind="evaluation", stop=stop)


def test_a_score_is_tied_to_its_policy_version_and_can_be_played_again():
    record = evaluate(3)
    assert record is not None
    assert record["policy_version"] == 3
    assert (record["phase"], record["env_frames"], record["learner_steps"]) == ("online", 1000, 50)
    assert len(record["returns"]) == record["episodes"] == 6
    assert set(record["returns"]) <= {-1.0, 1.0}
    assert record["mean_return"] == pytest.approx(sum(record["returns"]) / 6, abs=1e-6)
    assert record["normalised"] == pytest.approx((record["mean_return"] + 0.5) / 1.5, abs=1e-6)
    again = evaluate(3)
    assert again is not None
    assert again["returns"] == record["returns"]


def test_the_protocol_is_ales_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    asked = dict[str, Any]()

    def spy(env: EnvConfig, q_function: Any, **arguments: Any) -> EpisodeResults:
        asked.update(arguments, env=env)
        return play_episodes(env, q_function, **arguments)

    monkeypatch.setattr("orchestrator.processes.evaluator.play_episodes", spy)
    record = evaluate(3)
    assert record is not None
    assert asked["epsilon"] == 0.001
    assert asked["env"].max_episode_steps == 27_000
    assert asked["episodes"] == record["episodes"] == 6


def test_without_a_teacher_nothing_is_normalised():
    assert Baselines(random=0.0, teacher=None).normalise(5.0) is None
    assert Baselines.from_manifest({"random_score": 1, "teacher": None}) == Baselines(1.0, None)
    assert Baselines.from_manifest({"random_score": 1, "teacher": {"score": 3}}).normalise(2.0) == 0.5
    assert Baselines.from_manifest({"random_score": 1, "teacher": {"score": 1}}).normalise(2.0) is None


def test_an_interrupted_evaluation_is_no_score():
    stop = StopSignal()
    stop.set()
    assert evaluate(3, stop) is None


def test_weights_of_another_network_are_refused():
    tensors = weights()
    tensors.pop(next(iter(tensors)))
    with pytest.raises(CorruptDataError):
        evaluate_snapshot(
            CONFIG, Snapshot(tensors, metadata(1)), BASELINES, episodes=1, kind="final", stop=StopSignal()
        )


class OneGame(StopSignal):
    """Set by the evaluator's own pause: it has nothing more to evaluate."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def evaluate_newest(config: RunConfig, folder: RunFolder) -> None:
    Evaluator(config, folder, baselines=BASELINES, metrics=Metrics("evaluator", "run"), stop=OneGame()).run()


def test_each_version_is_scored_once_and_damaged_ones_are_passed_over(folder: RunFolder):
    snapshots = SnapshotFolder(folder.snapshots)

    def run() -> list[int]:
        Evaluator(CONFIG, folder, baselines=BASELINES, metrics=metrics, stop=OneGame()).run()
        return [record["policy_version"] for record in folder.scores()]

    metrics = Metrics("evaluator", "run")
    assert run() == []  # nothing published yet
    snapshots.publish(1, weights(), metadata(1))
    assert run() == [1]
    assert run() == [1]  # also after a restart: the scores on disk know
    ref = snapshots.publish(2, weights(), metadata(2))
    (folder.snapshots / ref.path).write_bytes(b"torn")
    assert run() == [1]
    snapshots.publish(3, weights(), metadata(3))
    assert run() == [1, 3]
    assert metrics.value("evaluator_policy_version") == 3
    assert metrics.value("evaluator_episodes_total") == 10


def test_versions_after_the_offline_phase_are_some_frames_apart(folder: RunFolder):
    config = catch("evaluation.period_seconds=0.1", "evaluation.period_frames=1000")
    snapshots = SnapshotFolder(folder.snapshots)
    published = [
        ("offline", 0, True),  # the first of all
        ("offline", 0, True),  # no frames are played here: time alone decides
        ("online", 0, False),
        ("online", 996, False),
        ("online", 1_000, True),
        ("online", 1_996, False),
        ("rl", 2_400, True),
        ("rl", 3_399, False),  # counted from the version that was evaluated, not from multiples of the period
        ("rl", 3_400, True),
    ]
    expected: list[int] = []
    for version, (phase, env_frames, due) in enumerate(published):
        snapshots.publish(version, weights(), metadata(version, phase=phase, env_frames=env_frames))
        evaluate_newest(config, folder)  # as after a restart, too
        expected += [version] * due
        assert [record["policy_version"] for record in folder.scores()] == expected


class Shown(SilentView):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[Progress] = []

    @override
    def show(self, progress: Progress) -> None:
        self.shown.append(progress)


def test_the_best_versions_play_off_and_the_winner_is_given_back(tmp_path: Path):
    config = catch("evaluation.period_seconds=0.1", "evaluation.finalists=3", "evaluation.final_episodes=40")
    folder = RunFolder.create(tmp_path / "run", config, teacher=None, random_score=-0.5)
    snapshots = SnapshotFolder(folder.snapshots)
    for version in range(1, 7):
        snapshots.publish(version, weights(version), metadata(version))
        evaluate_newest(config, folder)
    scores = {record["policy_version"]: record["mean_return"] for record in folder.scores()}
    top = sorted(scores, key=lambda version: (scores[version], version), reverse=True)[:3]
    assert sorted(snapshots.finalists()) == sorted(top)
    assert len(set(scores.values())) > 1, "these versions are too alike to rank"

    of_run = {"phase": "rl", "env_frames": 90_000, "learner_steps": 4_500, "restarts": 1}
    folder.write_status("driver", 0, of_run | {"time": 0.0})
    view = Shown()
    final = final_evaluation(folder, view, StopSignal())
    assert final is not None
    of_final = [progress for progress in view.shown if progress.detail.startswith("final evaluation, policy version ")]
    assert [of_final[0].games, of_final[0].fraction] == [Games(0, 40), 0.0]
    last = of_final[-1].games
    assert last is not None
    assert (last.ended, last.of, last.mean_return) == (40, 40, pytest.approx(final["mean_return"], abs=1e-6))
    games = [progress.detail.partition(",")[0] for progress in view.shown]
    assert list(dict.fromkeys(games)) == [*(f"play-off {number} of 3" for number in (1, 2, 3)), "final evaluation"]
    status = describe(folder)
    assert folder.statuses()["driver-0"]["time"] > 0.0, (
        "a heartbeat has its own time: by it a run is told from a lost one"
    )
    assert (status["phase"], status["games"]["ended"]) == ("evaluation", 40)  # for those that look from elsewhere
    assert (status["env_frames"], status["learner_steps"], status["restarts"]) == (90_000, 4_500, 1)  # of the run
    played = {record["policy_version"]: record for record in folder.scores() if record["kind"] == "playoff"}
    assert sorted(played) == sorted(top)
    assert [record["episodes"] for record in played.values()] == [40, 40, 40]
    winner = max(played, key=lambda version: (played[version]["mean_return"], version))
    best = snapshots.best()
    assert best is not None
    assert int(read_snapshot(best).metadata["policy_version"]) == final["policy_version"] == winner
    assert final["kind"] == folder.scores()[-1]["kind"] == "final"


def test_a_stopped_play_off_settles_nothing(tmp_path: Path):
    config = catch("evaluation.finalists=2")
    folder = RunFolder.create(tmp_path / "run", config, teacher=None, random_score=-0.5)
    snapshots = SnapshotFolder(folder.snapshots)
    for version in (1, 2):
        snapshots.publish(version, weights(version), metadata(version))
        evaluate_newest(config, folder)
    stop = StopSignal()
    stop.set()
    assert final_evaluation(folder, SilentView(), stop) is None
    assert [record["kind"] for record in folder.scores()] == ["evaluation", "evaluation"]
    assert len(snapshots.finalists()) == 2
