"""A folder that Dopamine's own agent has written (`benchmarks.peers.adapters.dopamine_agent`), through the import.

Its weights know nothing; its buffer are 810 rows of real Pong, 42x42, with the end of one episode.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.cli.app import main
from orchestrator.teachers.importing import ImportOptions, import_experience_into, import_teacher
from teacher_store.importers.imported import Request
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import load_teacher
from tests.helpers.in_process import run_in_process
from tests.helpers.paths import FIXTURES, PRESETS
from tests.helpers.replay_files import write_replay
from tests.orchestrator.run.test_pong_rainbow import SHORT
from upcycle.config.io import load_config
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import sha256_of

pytestmark = pytest.mark.slow

FOLDER = FIXTURES / "dopamine_pong"
SHORT_GAMES = ("env.max_episode_steps=40",)
OPTIONS = ImportOptions(FOLDER, "pong", task="Pong-v5", overrides=SHORT_GAMES, episodes=0)


class StopAfter:
    """Says stop when it has been asked so many times."""

    def __init__(self, questions: int) -> None:
        self._left = questions

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "teachers", bundled=None)


@pytest.fixture
def weights_alone(tmp_path: Path) -> Path:
    (tmp_path / "agent").mkdir()
    return Path(shutil.copy(FOLDER / "ckpt.9", tmp_path / "agent" / "whatever"))


def write_reference(path: Path, store: TeacherStore, name: str, *, error: float = 0.0) -> Path:
    observations = np.random.default_rng(0).integers(0, 256, (3, 4, 42, 42), np.uint8)
    q_values = load_teacher(store.get(name), store).values(torch.from_numpy(observations)).numpy()
    np.savez(path, allow_pickle=False, observations=observations, q_values=q_values + np.float32(error))
    return path


def test_an_agent_with_its_buffer_becomes_a_teacher_with_its_protocol_and_a_score(store: TeacherStore):
    record = import_teacher(store, replace(OPTIONS, episodes=2))
    assert (record.env.sticky_actions, record.env.stack_fill, record.env.noop_max) == (0.25, "zeros", 1)
    assert (record.env.frame_size, record.env.max_episode_steps, record.frame_shape) == (42, 40, (42, 42))
    assert record.score is not None
    assert record.score.episodes == 2
    assert record.random_score is not None
    assert record.experience is not None
    assert 780 <= record.experience.transitions <= 810
    source = record.provenance.source
    assert source is not None
    assert (source.format, source.path, source.sha256) == (
        "dopamine-jax",
        "dopamine_pong",
        sha256_of(FOLDER / "ckpt.9"),
    )
    assert source.facts["capacity"] == "810"
    assert len(record.differences) == 1
    assert record.actions == ("noop", "fire", "right", "left", "right + fire", "left + fire")
    assert record.licence == "NOASSERTION"
    store.verify(record)
    assert list(store.staging.iterdir()) == []


def test_a_student_is_grown_from_it_without_another_word(store: TeacherStore, tmp_path: Path):
    import_teacher(store, replace(OPTIONS, episodes=2))
    short = [change for change in SHORT if not change.startswith(("env.", "teacher."))]
    own = ("network.width=0.25", "network.hidden=16", "learner.learning_rate=1e-4")
    changes = [*short, *own, "teacher.id=pong", "teacher.accept_any=true"]
    run = run_in_process(load_config(PRESETS / "qdagger_dqn.toml", changes), tmp_path / "run", store)
    assert [phase["phase"] for phase in run.folder.phases()] == ["offline", "online", "rl"]
    assert run.folder.config.env == store.get("pong").env
    assert run.folder.manifest["teacher"]["id"] == store.get("pong").id


def test_the_same_import_again_is_refused_before_its_buffer_is_read(store: TeacherStore):
    import_teacher(store, OPTIONS)
    asked: list[int] = []
    with pytest.raises(UserError, match=r"is in the store already.*--name"):
        import_teacher(store, OPTIONS, on_progress=lambda done, _: asked.append(done))
    assert asked == []
    assert list(store.staging.iterdir()) == []


def test_an_import_that_was_interrupted_goes_on_and_ends_the_same(store: TeacherStore, tmp_path: Path):
    whole = import_teacher(TeacherStore(tmp_path / "other", bundled=None), OPTIONS)
    with pytest.raises(UserError, match="give the same command to go on"):
        import_teacher(store, OPTIONS, stop=StopAfter(5))
    assert store.list() == []
    done: list[int] = []
    record = import_teacher(store, OPTIONS, on_progress=lambda rows, _: done.append(rows))
    assert done[0] > 5 * 64
    assert record.experience is not None
    assert whole.experience is not None
    assert store.open_log(record).num_transitions == whole.experience.transitions
    assert record.id == whole.id


def test_a_buffer_alone_teaches_nothing_by_itself_and_can_be_given_to_a_teacher(
    store: TeacherStore, tmp_path: Path, weights_alone: Path
):
    buffer = tmp_path / "buffer"
    shutil.copytree(FOLDER, buffer, ignore=shutil.ignore_patterns("ckpt.*"))
    record = import_teacher(store, replace(OPTIONS, path=buffer, name="rows"))
    assert (record.kind, record.network, record.weights, record.score) == ("experience", None, None, None)
    assert record.describe_policy() == "experience without a policy"
    store.verify(record)
    with pytest.raises(UserError, match="has no weights: it is experience without a policy"):
        load_teacher(record, store)
    agent = import_teacher(store, replace(OPTIONS, path=weights_alone, name="agent"))
    assert agent.experience is None
    given = import_experience_into(store, "agent", replace(OPTIONS, path=buffer))
    assert given.experience == record.experience
    together = import_teacher(store, replace(OPTIONS, path=weights_alone, name="both", replay=buffer))
    assert together.experience == record.experience
    with pytest.raises(UserError, match="--into"):
        import_experience_into(store, "agent", replace(OPTIONS, path=weights_alone))


def test_values_of_the_framework_itself_are_compared_and_kept(store: TeacherStore, tmp_path: Path, weights_alone: Path):
    import_teacher(store, replace(OPTIONS, path=weights_alone, name="agent"))
    right = write_reference(tmp_path / "right.npz", store, "agent")
    options = replace(OPTIONS, path=weights_alone, name="compared", reference=right)
    parity = import_teacher(store, options).parity
    assert parity is not None
    assert (parity.observations, parity.reference) == (3, sha256_of(right))
    assert parity.largest_difference < 1e-5
    wrong = write_reference(tmp_path / "wrong.npz", store, "agent", error=0.01)
    with pytest.raises(UserError, match=r"--reference.*differs .* by up to 0\.01"):
        import_teacher(store, replace(options, name="wrong", reference=wrong))
    np.savez(tmp_path / "few.npz", allow_pickle=False, observations=np.zeros((1, 4, 42, 42), np.uint8))
    (tmp_path / "cut.npz").write_bytes(right.read_bytes()[:-40])
    for name in ("few.npz", "cut.npz"):
        with pytest.raises(CorruptDataError, match=rf"{name}: refused archive"):
            import_teacher(store, replace(options, name="wrong", reference=tmp_path / name))
    assert {record.name for record in store.list()} == {"agent", "compared"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": None}, "--task.*Pong-v5"),
        ({"task": "Pong"}, "is no EnvPool task"),
        ({"task": "Breakout-v5"}, "--task.*Breakout-v5.*has 4 actions, .* is for 6"),
        ({"overrides": ("env.frame_size=84",)}, r"frames of \(84, 84\), .* has such of \(42, 42\)"),
        ({"overrides": ("learner.batch_size=3",)}, "--set.*no field of the environment"),
        ({"overrides": ("env.stick=3",)}, "env.stick.*no such field"),
        ({"format": "keras"}, "--format.*is no format.*dopamine-jax"),
        ({"format": "dopamine-tf"}, "--format.*holds no checkpoint of a Dopamine agent in TensorFlow"),
        ({"request": Request(checkpoint=8)}, "--checkpoint.*there are 9"),
        ({"path": FOLDER / "nothing"}, "is not there"),
        ({"path": PRESETS}, "nothing that can be imported"),
        ({"replay": PRESETS}, "nothing that can be imported"),
        ({"name": "../elsewhere"}, "is no name of a teacher"),
    ],
)
def test_what_a_user_may_get_wrong(change: dict[str, object], problem: str, store: TeacherStore):
    with pytest.raises(UserError, match=problem):
        import_teacher(store, replace(OPTIONS, **change))  # pyright: ignore[reportArgumentType]
    assert store.list() == []


def test_a_link_is_refused(store: TeacherStore, tmp_path: Path):
    (tmp_path / "link").symlink_to(FOLDER)
    with pytest.raises(UserError, match="is a symbolic link"):
        import_teacher(store, replace(OPTIONS, path=tmp_path / "link"))


def test_a_teacher_no_better_than_random_is_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weights_alone: Path
):
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "teachers"))
    arguments = ["teacher", "import", str(weights_alone), "--set", SHORT_GAMES[0], "--episodes", "2", "--json"]
    assert main([*arguments, "--task", "Pong-v5", "--name", "pong"]) == 0
    assert "plays no better than random" in capsys.readouterr().err
    assert main(["teacher", "show", "pong"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "imported as dopamine-jax from whatever" in shown
    assert "not reproduced Dopamine opens an episode" in shown
    assert main(arguments) == 2
    assert "--task" in capsys.readouterr().err


def test_all_actions_of_the_joystick_are_taken_if_the_user_says_so(store: TeacherStore, tmp_path: Path):
    frames = np.random.default_rng(0).integers(1, 256, (12, 32, 32), np.uint8)
    frames[:3] = 0
    action = np.array([0, 0, 0, *range(9, 18)], np.int32)
    write_replay(tmp_path / "buffer", observation=frames, action=action)
    options = ImportOptions(tmp_path / "buffer", "full", task="Pong-v5", episodes=0)
    with pytest.raises(UserError, match="has 6 actions, the buffer number 17"):
        import_teacher(store, options)
    record = import_teacher(store, replace(options, overrides=("env.full_action_space=true",)))
    assert (record.num_actions, record.env.full_action_space) == (18, True)
    assert record.actions[9:12] == ("down + left", "up + fire", "right + fire")
    with pytest.raises(UserError, match=r"has 18 actions, .* is for 6"):
        import_teacher(store, replace(OPTIONS, overrides=("env.full_action_space=true",)))
