"""Stores in a bucket of a local S3 server, in fsspec's memory, and in places that cannot be used."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import boto3
import pytest

from teacher_store.importers.formats.upcycle_bundle import open_bundle
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.store.bundle import export_bundle
from teacher_store.store.garbage import collect_garbage
from teacher_store.store.publishing import hashes_of
from teacher_store.store.remote_storage import RemoteStorage
from teacher_store.store.storage import object_name
from teacher_store.store.store import TeacherStore
from tests.helpers.s3 import serve
from tests.helpers.stored import make_log, make_training_state, make_weights, publish
from tests.helpers.writers import publish_into_bucket
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import sha256_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Generator[str]:
    with serve() as url:
        yield url


@pytest.fixture
def environment(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bucket(environment: None) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(bucket: str) -> TeacherStore:
    return TeacherStore(f"s3://{bucket}/teachers", bundled=None)


def other_machine(store: TeacherStore, cache: Path) -> TeacherStore:
    """The same bucket, seen from where nothing is cached."""
    other = TeacherStore(store.location, bundled=None)
    other.storage = RemoteStorage(store.location, cache)
    return other


def test_a_teacher_in_a_bucket_is_whole_on_another_machine(store: TeacherStore, tmp_path: Path):
    make_training_state(tmp_path / "state")
    log = make_log(tmp_path / "log")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state", log=log)
    other = other_machine(store, tmp_path / "other")
    assert other.list() == [record]
    assert not (tmp_path / "other").exists()
    weights = other.weights_path(other.get("pong-dqn"))
    assert weights.is_relative_to(tmp_path / "other")
    assert record.weights is not None
    assert sha256_of(weights) == record.weights.sha256
    assert not list((tmp_path / "other").rglob("*.log"))  # only what is asked for
    assert other.open_log(record).num_transitions == 84
    assert other.training_state(record).learner_steps == 7
    other.verify(record)
    scored = other.replace(record.model_copy(update={"random_score": -20.0}))
    assert store.get(record.id) == scored
    export_bundle(other, record.id, tmp_path / "bundle.zip")
    assert open_bundle(SourceFiles(tmp_path / "bundle.zip")).record.id == record.id


def test_stores_that_write_to_a_bucket_at_once_lose_nothing(store: TeacherStore, tmp_path: Path):
    make_log(tmp_path / "log")
    shared = publish(store, make_weights(tmp_path), name="shared")
    with ThreadPoolExecutor(3) as pool:
        done = [
            name
            for names in pool.map(partial(publish_into_bucket, store.location, tmp_path), range(3))
            for name in names
        ]
    assert sorted([*done, shared.id]) == [record.id for record in store.list()]
    assert len(done) == 4
    changed = store.get("shared")
    assert (changed.revision, changed.random_score, changed.licence, changed.name) == (4, -20.0, "MIT", "shared")
    assert changed.differences == ("sound",)
    for record in store.list():
        store.verify(record)
    assert store.storage.entries("leases/") == []


def test_threads_that_put_the_same_name_and_fetch_the_same_object(store: TeacherStore, tmp_path: Path):
    def put(number: int) -> bool:
        return store.storage.put_if_absent("teachers/x", bytes([number]))

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(put, range(4)))
        assert sorted(done) == [False, False, False, True]
        assert store.storage.read(["teachers/x", "teachers/y"]) == {"teachers/x": bytes([done.index(True)])}
        store.storage.delete("teachers/x")
        store.storage.delete("teachers/x")
        record = publish(store, make_weights(tmp_path))
        other = other_machine(store, tmp_path / "other")
        paths = list(pool.map(other.weights_path, [record] * 4))
    assert len(set(paths)) == 1
    other.verify(record)


def test_damage_in_the_bucket_and_in_the_cache_is_reported(store: TeacherStore, bucket: str, tmp_path: Path):
    record = publish(store, make_weights(tmp_path))
    assert record.weights is not None
    key = f"teachers/{object_name(record.weights.sha256)}"
    path = store.weights_path(record)
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    with pytest.raises(CorruptDataError, match=r"weights\.safetensors: has changed"):
        store.verify(record)
    other = other_machine(store, tmp_path / "other")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"x" * len(content))
    with pytest.raises(CorruptDataError, match=f"{store.location}/objects/.*has changed"):
        other.weights_path(record)
    boto3.client("s3").delete_object(Bucket=bucket, Key=key)
    with pytest.raises(CorruptDataError, match="is missing"):
        other.weights_path(record)
    assert [found for found in (tmp_path / "other").rglob("*") if found.is_file()] == []


def test_garbage_of_a_bucket_goes_from_the_cache_too(store: TeacherStore, tmp_path: Path):
    kept = publish(store, make_weights(tmp_path, 1), name="kept")
    gone = publish(store, make_weights(tmp_path, 2), name="gone", log=make_log(tmp_path / "log"))
    for record in (kept, gone):
        store.verify(record)
    store.remove("gone")
    assert collect_garbage(store, keep_seconds=3600).names == ()
    collect_garbage(store, keep_seconds=0)
    (weights,) = hashes_of(kept).values()
    assert [entry.name for entry in store.storage.entries("objects/")] == [object_name(weights)]
    cached = [path.name for path in (store.storage.local / "objects").rglob("*") if path.is_file()]
    assert cached == [weights]
    assert [entry.name for entry in store.storage.entries("teachers/")] == [f"teachers/{kept.id}/00000001.json"]
    store.verify(kept)


def test_a_store_can_be_wherever_fsspec_reaches(environment: None, tmp_path: Path):
    store = TeacherStore(f"memory://{uuid.uuid4().hex}/teachers", bundled=None)
    assert store.list() == []
    record = publish(store, make_weights(tmp_path), log=make_log(tmp_path / "log"))
    store.verify(store.get("pong-dqn"))
    with pytest.raises(UserError, match="is in the store already"):
        publish(store, make_weights(tmp_path))
    store.remove(record.id)
    collect_garbage(store, keep_seconds=0)
    assert store.storage.entries("") == []


def test_a_server_that_overwrites_is_refused(environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serve(keeps_what_is_there=False) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="bucket")
        store = TeacherStore("s3://bucket/x", bundled=None)
        with pytest.raises(UserError, match="written again"):
            publish(store, make_weights(tmp_path))
        assert store.list() == []


def test_what_a_user_may_lack(
    environment: None, server: str, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(UserError, match=r"UPCYCLE_TEACHERS = 's3://nobodys/x': is not there .*make the bucket"):
        TeacherStore("s3://nobodys/x", bundled=None).list()
    with pytest.raises(UserError, match=r"UPCYCLE_TEACHERS = 'nothing://x'.*give a folder"):
        TeacherStore("nothing://x", bundled=None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(UserError, match=r"cannot be used .*check the URL, the network and the credentials"):
            publish(TeacherStore(f"s3://{bucket}/x", bundled=None), make_weights(tmp_path))
        free.listen()  # and now somebody who never answers
        silent = RemoteStorage(f"s3://{bucket}/x", tmp_path / "silent", timeout_seconds=0.2)
        with pytest.raises(UserError, match="cannot be used"):
            silent.entries("teachers/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="Unable to locate credentials"):
        TeacherStore(f"s3://{bucket}/x", bundled=None).list()
    code = "import sys; sys.modules['s3fs'] = None; import teacher_store.store.locations as at; at.open_storage('s3://a/b')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    last = run.stderr.splitlines()[-1]
    assert last.startswith("upcycle.errors.UserError")
    assert "needs a package" in last
    assert "pip install 'upcycle-rl[s3]'" in last
    assert os.listdir(tmp_path) == ["policy-0.safetensors"]
