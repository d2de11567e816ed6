"""Every method that ships as a preset, made small: a whole run of Catch that ends well above random play."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.teachers.publishing import publish_from_run
from teacher_store.store.store import TeacherStore
from tests.helpers.in_process import run_in_process
from tests.helpers.paths import PRESETS
from upcycle.config.io import load_config
from upcycle.config.run import RunConfig
from upcycle.errors import UserError

pytestmark = pytest.mark.slow


GOOD_RETURN = 0.0
"""Half of the games won. Random play returns -0.64 (400 games), wins less than a fifth."""

SMALL = (
    "env.task=Catch-v0", "network.kind=mlp", "network.hidden=64",
    "replay.num_shards=1", "replay.capacity_steps=20_000", "replay.chunk_steps=16", "replay.min_size_to_sample=400",
    "replay.error_buffer_steps=600", "replay.samples_per_insert=16.0",
    "actors.num_actors=1", "actors.lanes=8", "actors.epsilon_decay_frames=1_500", "actors.weight_poll_seconds=0.1",
    "learner.batch_size=64", "learner.learning_rate=1e-3", "learner.target_update_period=50",
    "learner.publish_period=50", "learner.checkpoint_seconds=600", "learner.memory_format=contiguous",
    "offline.learner_steps=200", "online.env_frames=1_500", "rl.env_frames=1_000",
    "evaluation.episodes=40", "evaluation.final_episodes=50", "evaluation.period_seconds=1",
    "evaluation.period_frames=0",
)  # fmt: skip
FROM_SCRATCH = ("rl.env_frames=8_000", "rl.stop_at_return=0.5", "actors.epsilon_warmup_frames=400")
"""As long as it takes: how much is learnt in a second differs from machine to machine."""
TEACHER = (*FROM_SCRATCH, "rl.stop_at_return=0.85")
TAUGHT = ("teacher.id=catcher", "replay.samples_per_insert=8.0")
FADING = (*TAUGHT, "learner.final_learning_rate=3e-4")
C51 = ("network.atoms=21", "network.support_limit=1.5")
"""The returns of Catch lie in [-1, 1]."""
FULL = ("network.dueling=true", "network.noisy=true", "network.hidden=32", "learner.double_q=true")
"""The rest of Rainbow; a noisy layer draws its weights anew in every step, which costs a small network most of it."""

METHODS: dict[str, Sequence[str]] = {
    "nature_dqn": (*FROM_SCRATCH, "learner.n_step=3"),
    "dqn_adam": FROM_SCRATCH,
    "rainbow": (*FROM_SCRATCH, *C51, "learner.learning_rate=3e-3"),
    "impala_rainbow_scratch": (*FROM_SCRATCH, *C51, "learner.learning_rate=3e-3", *FULL),
    "finetune_adam": (*TAUGHT, "learner.learning_rate=1e-4"),
    "qdagger_dqn": FADING,
    "impala_rainbow": (*FADING, *C51),
    "dagger": (*TAUGHT, *C51),
    "kickstarting": FADING,
    "rehearsal": (*TAUGHT, "online.env_frames=3_000"),
    "pretraining": (*FADING, "rl.env_frames=5_000"),  # room for a learner that trails the actor on a slow machine
    "dqfd": TAUGHT,
    "jsrl": (*TAUGHT, "online.env_frames=3_000", "guide.opening_steps=9", "guide.iteration_frames=300"),
}


def small(preset: str, *overrides: str) -> RunConfig:
    return load_config(PRESETS / f"{preset}.toml", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    """With a teacher of Catch that has learnt for seconds, and left the log of all that it has played."""
    root = tmp_path_factory.mktemp("catcher")
    store = TeacherStore(root / "teachers", bundled=None)
    run = run_in_process(small("dqn_adam", *TEACHER), root / "run", store)
    record = publish_from_run(run.folder.path, store, name="catcher")
    assert record.score is not None
    assert record.score.mean_return > GOOD_RETURN
    assert record.training_state is not None
    return store


@pytest.mark.parametrize("preset", METHODS)
def test_a_method_ends_well_above_random_play(preset: str, store: TeacherStore, tmp_path: Path) -> None:
    config = small(preset, *METHODS[preset])
    run = run_in_process(config, tmp_path / "run", store)
    assert tuple(phase["phase"] for phase in run.folder.phases()) == config.phases
    assert run.mean_return > GOOD_RETURN
    guided = run.metrics["actor-0"].value("actor_guided_frames_total")
    assert (guided > 0) == (preset == "jsrl")


def test_fine_tuning_goes_on_as_the_teacher_with_its_optimizer(store: TeacherStore, tmp_path: Path) -> None:
    config = small("finetune_adam", *METHODS["finetune_adam"], "teacher.optimizer=restored")
    run = run_in_process(config, tmp_path / "run", store)
    assert run.folder.scores()[0]["mean_return"] > GOOD_RETURN  # of weights that were loaded a second before
    assert run.mean_return > GOOD_RETURN
    steps = publish_from_run(run.folder.path, store, name="finer").provenance.learner_steps
    assert steps is not None
    assert steps <= run.status["learner-0"]["learner_steps"]  # the run counts its own
    arrays = store.training_state(store.get("finer"))
    taught = store.training_state(store.get("catcher"))
    name = next(iter(arrays.optimizer))
    assert arrays.optimizer[name]["step"] == arrays.learner_steps + taught.optimizer[name]["step"]


def test_an_optimizer_of_another_kind_is_refused_before_the_run_exists(store: TeacherStore, tmp_path: Path) -> None:
    config = small("finetune_adam", *TAUGHT, "teacher.optimizer=restored", "learner.optimizer=rmsprop")
    with pytest.raises(UserError, match="state of adam, the student has rmsprop"):
        run_in_process(config, tmp_path / "run", store)
    assert not (tmp_path / "run").exists()
