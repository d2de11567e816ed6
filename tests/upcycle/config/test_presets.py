"""The shipped presets against the published settings (Reincarnating RL, Dopamine), written out once more."""

import itertools
from typing import Any

import pytest

from tests.helpers.paths import PRESETS
from upcycle.config.io import load_config
from upcycle.config.run import RunConfig
from upcycle.config.teacher_use import has_teacher, with_protocol_of

SMALL = {"cartpole", "catch", "pong_cpu", "pong_rainbow", "pong_teacher"}

ALL, RL = ("offline", "online", "rl"), ("rl",)
FROM_SCRATCH, STUDENT = (1.0, 0.01, 1_000_000, 80_000), (1.0, 0.01, 200_000, 0)
EPSILON = ("epsilon_start", "epsilon_end", "epsilon_decay_frames", "epsilon_warmup_frames")
COLUMNS = (
    "phases", "network.kind", "network.head", "sampler", "optimizer", "learning_rate", "final_learning_rate", "loss",
    "n_step", "coefficient", "schedule", "online frames", "rl frames", "epsilon",
)  # fmt: skip
TABLE: dict[str, tuple[Any, ...]] = {
    "nature_dqn": (RL, "nature", "q", "uniform", "rmsprop", 2.5e-4, None, "huber", 1, None, None, 0, 200, FROM_SCRATCH),
    "dqn_adam": (RL, "nature", "q", "uniform", "adam", 6.25e-5, None, "mse", 1, None, None, 0, 200, FROM_SCRATCH),
    "rainbow": (RL, "nature", "c51", "per", "adam", 6.25e-5, None, None, 3, None, None, 0, 200, FROM_SCRATCH),
    "impala_rainbow_scratch":
        (RL, "impala", "c51", "per", "adam", 6.25e-5, None, None, 3, None, None, 0, 200, FROM_SCRATCH),
    "finetune_adam": (RL, "nature", "q", "uniform", "adam", 1e-5, None, "mse", 3, None, None, 0, 30, (0.01, 0.01)),
    "qdagger_dqn": (ALL, "nature", "q", "uniform", "adam", 1e-4, 1e-5, "huber", 3, 3.0, "score", 6, 4, STUDENT),
    "impala_rainbow": (ALL, "impala", "c51", "per", "adam", 1e-4, 1e-5, None, 3, 1.0, "score", 10, 5, STUDENT),
    "dagger":
        (ALL[:2], "nature", "c51", "per", "adam", 1e-4, None, None, 3, 1.0, "constant", 15, 0, STUDENT),
    "kickstarting": (ALL[1:], "nature", "q", "uniform", "adam", 1e-4, 1e-5, "huber", 3, 3.0, "score", 6, 4, STUDENT),
    "rehearsal":
        (ALL[1:2], "nature", "q", "uniform", "adam", 1e-5, None, "huber", 1, 0.0, "constant", 10, 0, STUDENT),
    "pretraining":
        (("offline", "rl"), "nature", "q", "uniform", "adam", 1e-4, 1e-5, "huber", 1, 0.0, None, 0, 10, STUDENT),
    "dqfd": (ALL, "nature", "q", "uniform", "adam", 1e-4, None, "huber", 1, 0.0, "score", 6, 4, STUDENT),
    "jsrl": (ALL[1:2], "nature", "q", "uniform", "adam", 6.25e-5, None, "huber", 1, 0.0, "constant", 10, 0, STUDENT),
}  # fmt: skip
"""By preset, the columns; frames in millions, counted in environment frames; None: is of no consequence there."""

SPECIAL: dict[str, dict[str, object]] = {
    "nature_dqn": {"learner.rmsprop_decay": 0.95, "learner.rmsprop_epsilon": 1e-5},
    "finetune_adam": {"teacher.reload": "weights_and_replay", "teacher.optimizer": "fresh"},
    "dagger": {"learner.td_coefficient": 0.0},
    "rehearsal": {"online.teacher_fraction": 1 / 16},
    "pretraining": {
        "cql.coefficient": 1.0, "cql.temperature": 0.1, "cql.phases": ("offline",), "rl.fresh_optimizer": True,
    },
    "dqfd": {"margin.coefficient": 1.0, "margin.margin": 1.0, "margin.form": "mean"},
    "jsrl": {
        "guide.kind": "opening", "guide.opening_steps": 1000, "guide.opening_decay": 0.8,
        "guide.iteration_frames": 500_000, "guide.fade_frames": 10_000_000,
    },
}  # fmt: skip
"""What one method has beside the table, and no other."""


def read(config: RunConfig, field: str) -> Any:
    section, _, name = field.partition(".")
    return getattr(getattr(config, section), name)


def test_every_shipped_preset_is_in_a_table_and_says_what_it_is() -> None:
    presets = {path.stem: path.read_text() for path in PRESETS.glob("*.toml")}
    assert set(presets) == SMALL | set(TABLE)
    for name, text in presets.items():
        opening = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
        assert len(opening) >= 2, name
        if name in TABLE:
            assert any(line.startswith("# Source: ") for line in opening), name
            assert any(line.startswith("# On purpose: ") for line in opening), name
        assert load_config(PRESETS / f"{name}.toml").name == name.replace("_", "-")


@pytest.mark.parametrize("name", TABLE)
def test_a_method_has_its_published_settings(name: str) -> None:
    config, row = load_config(PRESETS / f"{name}.toml"), dict(zip(COLUMNS, TABLE[name], strict=True))
    assert config.phases == row["phases"]
    assert (config.network.kind, config.network.head) == (row["network.kind"], row["network.head"])
    assert config.replay.sampler == {"per": "proportional"}.get(row["sampler"], row["sampler"])
    for field in ("optimizer", "learning_rate", "final_learning_rate", "n_step"):
        assert getattr(config.learner, field) == row[field], field
    assert row["loss"] in (None, config.learner.loss)
    if row["coefficient"] is not None:
        assert config.distillation.coefficient == row["coefficient"]
        assert config.distillation.temperature == 0.1
    assert row["schedule"] in (None, config.distillation.schedule)
    assert config.phases.count("online") * config.online.env_frames == row["online frames"] * 1_000_000
    assert config.phases.count("rl") * config.rl.env_frames == row["rl frames"] * 1_000_000
    epsilon = tuple(getattr(config.actors, field) for field in EPSILON)
    assert epsilon[: len(row["epsilon"])] == row["epsilon"]
    for field in {field for fields in SPECIAL.values() for field in fields}:
        if field.startswith("teacher.") and config.teacher is None:
            continue
        own = SPECIAL.get(name, {})
        assert read(config, field) == own.get(field, read(RunConfig.model_construct(**defaults(config)), field)), field


def defaults(config: RunConfig) -> dict[str, Any]:
    """Every section as it is without a preset."""
    return {
        name: None if (section := getattr(config, name)) is None else type(section)()
        for name in ("teacher", "learner", "online", "rl", "cql", "margin", "guide")
    }


@pytest.mark.parametrize("name", TABLE)
def test_all_have_the_protocol_and_the_replay_of_dopamine(name: str) -> None:
    config = load_config(PRESETS / f"{name}.toml")
    if has_teacher(config):
        assert not config.env.model_fields_set  # any teacher's protocol will do; here Dopamine's
        config = with_protocol_of(config, load_config(PRESETS / "nature_dqn.toml").env)
    env, replay, learner, evaluation = config.env, config.replay, config.learner, config.evaluation
    assert (env.frame_size, env.frame_stack, env.frame_skip, env.max_episode_steps) == (84, 4, 4, 27_000)
    assert (env.stack_fill, env.sticky_actions, env.noop_max) == ("zeros", 0.25, 1)
    assert (env.fire_reset, env.episodic_life, env.clip_rewards) == (False, False, True)
    assert (replay.capacity_steps, replay.teacher_capacity_steps) == (1_000_000, 1_000_000)
    assert (replay.min_size_to_sample, replay.samples_per_insert, learner.batch_size) == (20_000, 8.0, 32)
    assert (learner.gamma, learner.target_update_period, learner.adam_epsilon) == (0.99, 2_000, 1.5e-4)
    assert (learner.double_q, learner.weight_average_decay) == (False, 0.0)
    assert (config.network.padding, config.network.width, config.network.hidden) == ("same", 1.0, 512)
    assert (config.network.dueling, config.network.noisy) == (False, False)
    assert (evaluation.epsilon, evaluation.period_frames) == (0.001, 1_000_000)
    if "offline" in config.phases:
        assert config.offline.learner_steps == 10 * 100_000
    if config.network.head == "c51":
        assert (config.network.atoms, config.network.support_limit) == (51, 10.0)
    if replay.sampler == "proportional":
        assert (replay.priority_exponent, replay.importance_sampling_exponent) == (0.5, 0.5)
        assert (replay.stratified, config.actors.initial_priorities) == (True, "max")


def test_the_small_rainbow_keeps_the_real_weight_of_distillation() -> None:
    config = load_config(PRESETS / "pong_rainbow.toml")
    distillation = config.distillation
    assert distillation.coefficient / distillation.temperature == pytest.approx(1.0 / 0.1)
    assert (config.network.kind, config.network.head, config.replay.sampler) == ("impala", "c51", "proportional")
    assert (config.env.frame_size, config.actors.initial_priorities) == (42, "max")
