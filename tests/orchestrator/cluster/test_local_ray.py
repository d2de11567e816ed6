"""Where a local Ray's sockets live, whatever the machine's temporary folder is like."""

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from orchestrator.cli import doctor
from orchestrator.cluster import local_ray
from orchestrator.cluster.local_ray import private_folder, socket_folder, usable_places, why_unusable
from tests.helpers.runs import catch
from upcycle.errors import UserError
from upcycle.runs.runtime import StopSignal

LONG = "x" * 70
PROXY = "RAY_grpc_enable_http_proxy"
SESSION = "session_2026-11-30_21-52-53_123456_4194304"


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    """As batch systems make them: /scratch/slurm/job.1234567.0/..."""
    folder = tmp_path / LONG
    folder.mkdir()
    return folder


def test_a_long_temporary_folder_is_passed_by(long_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(long_folder))
    with private_folder() as folder:
        assert long_folder not in folder.parents
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
        sockets = folder / SESSION / "sockets"
        sockets.mkdir(parents=True)
        for name in ("plasma_store", "raylet"):
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(sockets / name))
    assert not folder.exists()
    assert not list(long_folder.iterdir())


def test_a_short_temporary_folder_is_kept_to():
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as place, socket_folder([Path(place)]) as folder:
        assert folder.parent == Path(place)


@pytest.mark.parametrize("num_bytes", range(100, 112))
def test_the_limit_is_the_systems_own(num_bytes: int):
    """What is refused for its length could not be bound, and what is not refused could."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as place:
        folder = Path(place) / ("y" * (num_bytes - len(place) - 1 - local_ray.BELOW_BYTES))
        folder.mkdir()
        below = folder / "/".join([SESSION, "sockets", "plasma_store.9"])
        below.parent.mkdir(parents=True)
        assert len(os.fsencode(below)) == num_bytes
        with socket.socket(socket.AF_UNIX) as server:
            try:
                server.bind(str(below))
                could = True
            except OSError:
                could = False
        assert (why_unusable(folder) is None) == could


def test_where_no_folder_will_do_each_is_named_with_its_reason(long_folder: Path, tmp_path: Path):
    places = [long_folder, tmp_path / "nowhere"]
    with pytest.raises(UserError, match="TMPDIR") as refused, socket_folder(places):
        pass
    for words in (LONG, "bytes of 107 at the most", "nowhere: No such file", "short path"):
        assert words in str(refused.value)


def test_relative_and_repeated_places_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    assert usable_places() == [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]


def test_a_local_ray_asks_no_proxy_and_the_environment_comes_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PROXY, "1")
    with private_folder():
        assert os.environ[PROXY] == "0"
    assert os.environ[PROXY] == "1"
    monkeypatch.delenv(PROXY)
    with private_folder():
        assert os.environ[PROXY] == "0"
    assert PROXY not in os.environ


def test_doctor_says_where_the_sockets_go(long_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(long_folder))
    finding = doctor.check_sockets()
    assert finding.level == "ok"
    assert LONG in finding.found
    monkeypatch.setattr(local_ray, "_PLACES", ())
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    finding = doctor.check_sockets()
    assert finding.level == "missing"
    assert "short path" in finding.remedy


@pytest.mark.parametrize("mode", [None, "disabled"])
@pytest.mark.parametrize("wanted", [True, False])
def test_whoever_asks_for_the_dashboard_gets_its_url_and_the_token(
    mode: str | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    from orchestrator.cluster import ray_cluster

    def start(*_: object) -> str | None:
        return "127.0.0.1:8265" if wanted else None

    def no_places(*_: object) -> None:
        """There is no Ray to have any."""

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(ray_cluster, "start_local", start)
    monkeypatch.setattr(ray_cluster, "Places", no_places)
    said = list[str]()
    with private_folder() as folder:
        ray_cluster.Cluster(
            catch(f"cluster.dashboard={str(wanted).lower()}"), "test", folder, said.append, StopSignal()
        )
        token = (folder / "token").read_text() if mode is None else None
    if not wanted:
        assert said == []
    elif token is None:
        assert said == ["Ray's dashboard: http://127.0.0.1:8265"]
    else:
        assert said == [f"Ray's dashboard: http://127.0.0.1:8265 (asks for this run's token: {token})"]
