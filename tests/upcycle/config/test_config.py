import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import PRESETS
from upcycle.config.io import dump_config, load_config, parse_config
from upcycle.config.run import RunConfig
from upcycle.errors import UserError

PRESET_FILES = sorted(PRESETS.glob("*.toml"))


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "preset.toml"
    path.write_text('name = "p"\nphases = ["rl"]\n[learner]\nbatch_size = 64\n')
    return path


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_presets_that_ship_are_valid(path: Path):
    assert load_config(path).name


def test_a_configuration_reads_back_equal(tmp_path: Path, preset: Path):
    config = load_config(preset, ["rl.stop_at_return=15.5", "env.stack_fill=zeros", "replay.sampler=proportional"])
    (tmp_path / "again.toml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.toml") == config


def test_later_overrides_win_and_need_no_quotes(preset: Path):
    config = load_config(preset, ["env.task=Breakout-v5", "learner.batch_size=16", "learner.batch_size=32"])
    assert (config.env.task, config.learner.batch_size) == ("Breakout-v5", 32)


@pytest.mark.parametrize("text", ["phases=online,rl", 'phases=["online", "rl"]'])
def test_phases_can_be_given_as_names(preset: Path, text: str):
    assert load_config(preset, [text, "teacher.id=t"]).phases == ("online", "rl")


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("cql.phases", "offline, rl", ("offline", "rl")),
        ("teacher.also", "42,second", ("42", "second")),
        ("teacher.collect_epsilons", "0.01,0.05", (0.01, 0.05)),
        ("teacher.collect_epsilons", "[0.1, 0.2]", (0.1, 0.2)),
        ("loss_terms.mine.phases", "online,rl", ("online", "rl")),
    ],
)
def test_a_field_of_several_values_takes_commas(preset: Path, field: str, text: str, expected: tuple[object, ...]):
    config = load_config(preset, ["teacher.id=first", "loss_terms.mine.use=pkg:term", f"{field}={text}"])
    assert config.teacher is not None
    values = {"cql": config.cql, "teacher": config.teacher, "loss_terms": config.loss_terms["mine"]}
    section, *_, name = field.split(".")
    assert getattr(values[section], name) == expected


def test_none_unsets(preset: Path):
    assert load_config(preset, ["rl.stop_at_return=3", "rl.stop_at_return=none"]).rl.stop_at_return is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.batch_sise=3", "learner.batch_size"),
        ("lerner.batch_size=3", "learner"),
        ("learner.batch_size=-1", "greater than 0"),
        ("learner.batch_size=many", "integer"),
        ("learner.batch_size", "section.field=value"),
        ("name.first=x", "name is a value"),
        ("phases=rl,online", "in that order"),
        ("phases=offline,rl", "teacher"),
        ("replay.min_size_to_sample=999999999", "deadlock"),
        ("replay.error_buffer_steps=1", "deadlock"),
        ("name=../elsewhere", "name"),
        ("learner.ranks=3", "no multiple of learner.ranks (3)"),
        ("replay.log_keep_steps=199999", "a resumed run could not fill its replay again; raise replay.log_keep_steps"),
        ("cluster.disk_stop_bytes=9999999999", "cluster.disk_stop_bytes is above cluster.disk_warning_bytes"),
        ("evaluation.period_frames=4000001", "evaluation.period_frames is above"),
        ("network.padding=symmetric", "padding=symmetric is not known of kind=nature; set same or valid"),
        ("online.teacher_fraction=0.5", "online.teacher_fraction is of the phase online"),
        ("guide.kind=opening", "guide.kind is of the phase online"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(preset: Path, override: str, message: str):
    with pytest.raises(UserError) as error:
        load_config(preset, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("network.head=c51", "replay.sampler=proportional"), "actors.initial_priorities=max"),
        (("teacher.id=one", "teacher.also=two", "teacher.reload=weights"), "leave out teacher.also"),
        (("teacher.id=one", "teacher.optimizer=restored"), "needs teacher.reload"),
    ],
)
def test_fields_that_contradict_each_other_are_named(preset: Path, overrides: tuple[str, ...], message: str):
    with pytest.raises(UserError) as error:
        load_config(preset, overrides)
    assert message in str(error.value)


def test_a_missing_or_broken_preset_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="catch"):
        load_config(tmp_path / "nope.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(UserError, match="not TOML"):
        load_config(tmp_path / "bad.toml")


def test_the_tree_is_frozen():
    config = parse_config({"phases": ["rl"]})
    with pytest.raises(ValueError, match="frozen"):
        config.learner.batch_size = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_every_field_is_documented():
    def undocumented(model: type[RunConfig]) -> list[str]:
        missing = [name for name, field in model.model_fields.items() if not field.description]
        for field in model.model_fields.values():
            for option in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(option, type) and hasattr(option, "model_fields"):
                    missing += undocumented(option)
        return missing

    assert undocumented(RunConfig) == []


def test_configuration_needs_nothing_heavy():
    heavy = "{'torch', 'ray', 'grpc', 'redis', 'envpool', 'numpy', 'matplotlib'}"
    code = f"import sys, upcycle.config.io; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
