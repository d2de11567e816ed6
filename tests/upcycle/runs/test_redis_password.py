from pathlib import Path

import pytest

from upcycle.config.io import dump_config, load_config, parse_config, scrub_config
from upcycle.errors import UserError
from upcycle.runs.redis_password import VARIABLE, redis_password
from upcycle.runs.run_folder import RunFolder

URL = "redis://127.0.0.1:6379/0"
OLD = "redis://:hunter2@127.0.0.1:6379/0"


def config(**cluster: str):
    return parse_config({"name": "run", "phases": ["rl"], "cluster": cluster})


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_it_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "password").write_text("of the file\n")
    cluster = config(redis_url=URL, redis_password_file=str(tmp_path / "password")).cluster
    found = redis_password(cluster)
    assert found is not None
    assert found.get_secret_value() == "of the file"
    assert "of the file" not in f"{found} {found!r}"
    monkeypatch.setenv(VARIABLE, "of the environment")
    found = redis_password(cluster)
    assert found is not None
    assert found.get_secret_value() == "of the environment"
    assert redis_password(config().cluster) is None  # the embedded server has its own


def test_without_either_there_is_none():
    assert redis_password(config(redis_url=URL).cluster) is None


def test_a_file_that_is_not_there_or_empty_is_a_users_error(tmp_path: Path):
    (tmp_path / "empty").write_text("\n")
    for name, problem in (("absent", "No such file"), ("empty", "is empty")):
        with pytest.raises(UserError, match=rf"cluster\.redis_password_file.*{problem}.*{VARIABLE}"):
            redis_password(config(redis_url=URL, redis_password_file=str(tmp_path / name)).cluster)


@pytest.mark.parametrize(
    "override",
    [
        f"cluster.redis_url={OLD}",
        "cluster.redis_url=redis://host/0?password=hunter2",
        f"cluster.redis_ulr={OLD}",
        f"cluster.redis_url.x={OLD}",
        f"cluster {OLD}",
        "cluster.redis_password=hunter2",
        f"learner.batch_size={OLD}",
    ],
)
def test_a_password_in_a_value_is_refused_and_never_shown(override: str, tmp_path: Path):
    preset = tmp_path / "preset.toml"
    preset.write_text('phases = ["rl"]')
    with pytest.raises(UserError) as refused:
        load_config(preset, [override])
    error: BaseException | None = refused.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r}"
        error = error.__cause__


def test_the_refusal_says_where_it_belongs():
    with pytest.raises(UserError, match=rf"cluster\.redis_url.*{VARIABLE}.*cluster\.redis_password_file"):
        config(redis_url=OLD)


def test_a_run_of_before_opens_without_its_password(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", config(redis_url=URL))
    path = folder.path / "config.toml"
    path.write_text(path.read_text().replace(URL, OLD))
    assert folder.config.cluster.redis_url == URL
    assert load_config(path, ["seed=1"], stored=True).seed == 1
    with pytest.raises(UserError, match=VARIABLE):
        load_config(path, [f"cluster.redis_url={OLD}"], stored=True)
    folder.replace_config(folder.config)  # as `upcycle resume` does
    assert "hunter2" not in path.read_text()


def test_a_stored_configuration_is_scrubbed_and_otherwise_left_as_it_is():
    text = dump_config(config(redis_url=URL))
    assert scrub_config(text) == text
    assert scrub_config(text.replace(URL, OLD)) == text
    assert "hunter2" not in scrub_config(f"no TOML: {OLD}")
