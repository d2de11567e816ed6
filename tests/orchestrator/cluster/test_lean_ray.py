"""A local Ray without its unused daemons: what of Ray is replaced while it starts, and put back."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import ray

from orchestrator.cli.early_start import VERIFIED_VERSIONS
from orchestrator.cluster import lean_ray
from orchestrator.cluster.lean_ray import lean_command, lean_daemons

COMMAND = [
    "/x/raylet",
    "--raylet_socket_name=/x",
    "--maximum_startup_concurrency=2",
    "--num_prestart_python_workers=2",
    "--dashboard_agent_command=python agent.py --port=1",
    "--runtime_env_agent_command=python main.py",
]


def test_the_installed_ray_is_one_that_starts_lean():
    """With another Ray look at `orchestrator.cluster.lean_ray` again: does it still replace what it means to?"""
    assert ray.__version__ in VERIFIED_VERSIONS


def test_a_raylet_gets_stand_ins_for_its_agents_and_no_worker_in_advance():
    lean = lean_command(COMMAND)
    assert lean[:2] == COMMAND[:2]
    assert "--num_prestart_python_workers=0" in lean
    assert [word.partition("=")[0] for word in lean] == [word.partition("=")[0] for word in COMMAND]
    assert sum(word.endswith("agent_stand_in.py") for word in lean) == 2


def test_a_path_with_spaces_is_one_word_of_the_command(monkeypatch: pytest.MonkeyPatch):
    words = ("/home/my name/bin/python", "/home/my name/agent.py")
    monkeypatch.setattr(lean_ray, "_AGENT", words)
    agents = [word.partition("=")[2] for word in lean_command(COMMAND) if "agent_command" in word]
    assert [tuple(shlex.split(agent)) for agent in agents] == [words, words]


def test_a_raylet_of_another_kind_is_no_guesswork():
    with pytest.raises(AssertionError, match="runtime_env_agent_command"):
        lean_command(COMMAND[:-1])


def test_what_is_replaced_is_put_back(tmp_path: Path):
    node, services = cast(Any, ray)._private.node.Node, cast(Any, ray)._private.services
    names = ("start_api_server", "start_monitor", "start_log_monitor", "start_raylet")
    before = [getattr(node, name) for name in names], services.start_ray_process
    with suppress(KeyError), lean_daemons(tmp_path / "fork"):
        assert all(getattr(node, name) is not old for name, old in zip(names, before[0], strict=True))
        assert services.start_ray_process is not before[1]
        raise KeyError
    assert ([getattr(node, name) for name in names], services.start_ray_process) == before
