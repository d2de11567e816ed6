"""`upcycle replay inspect` on live shards that a run's folder names."""

import io
import json
from collections.abc import Generator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from orchestrator.cli.app import main
from orchestrator.reports.contact_sheet import SheetPart, contact_sheet
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.shard import ReplayShard
from replay_service.table.contents import ShownWindows
from tests.helpers.chunk_factory import make_chunk, table_config
from tests.helpers.runs import catch
from upcycle.experience.chunks import Array, ChunkSpec, encode_chunk
from upcycle.experience.windows import View, Windows
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder

SPEC = ChunkSpec(frame_shape=(12, 10), frame_dtype="uint8", num_actions=3, steps=8, history=3, lookahead=5)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    identity = {"teacher": None, "random_score": 0.0, "preset": "catch", "versions": {}, "chunk_spec": SPEC.to_json()}
    folder = RunFolder.create(tmp_path / "runs" / "catch", catch(), **identity)
    folder.write_status("driver", 0, {})
    return folder


@pytest.fixture
def shards(folder: RunFolder) -> Generator[list[ReplayShard]]:
    """Two shards that the folder names; the first holds chunks."""
    shards = list[ReplayShard]()
    for index in range(2):
        tables = [
            table_config(samples_per_insert=4.0, error_buffer_steps=40),
            table_config("teacher", annotation_width=2),
        ]
        shard = ReplayShard(index=index, spec=SPEC, tables=tables, log=None, metrics=Metrics("replay", "t", index))
        folder.announce_endpoint("replay", index, shard.start())
        shards.append(shard)
    yield shards
    for shard in shards:
        shard.stop(grace_seconds=0.2)


def insert(folder: RunFolder, numbers: range) -> None:
    from replay_service.client.shard_client import ShardClient

    client = ShardClient(folder.endpoints("replay")[0], SPEC)
    chunks = [encode_chunk(make_chunk(number, spec=SPEC), SPEC) for number in numbers]
    accepted, _ = client.insert(
        "online", chunks, writer_id="w", first_sequence=0, max_priority=0.0, timeout_seconds=10.0
    )
    assert accepted == len(chunks)
    client.close()


def run(folder: RunFolder, *options: str) -> int:
    return main(["replay", "inspect", folder.path.name, "--runs", str(folder.path.parent), *options])


@pytest.mark.usefixtures("shards")
def test_values_for_machines_and_a_sheet(folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    insert(folder, range(3, 6))
    sheet = tmp_path / "sheet.png"
    assert run(folder, "--json", "--sheet", str(sheet), "--windows", "5") == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["tables"]) == {"online", "teacher"}
    first, second = answer["tables"]["online"]["0"], answer["tables"]["online"]["1"]
    assert (first["num_transitions"], first["num_chunks"], first["mass"]) == (24, 3, 24.0)
    assert (first["stalest_policy_version"], first["newest_policy_version"]) == (3, 5)
    assert first["priorities"] == {"lower": [1.0], "count": [24]}
    assert first["ages"]["steps"] == [0, 0, 8, 16, 16]
    assert first["limiter"]["surplus"] == 23.0  # the first transition is free
    assert (second["num_transitions"], second["newest_policy_version"]) == (0, None)
    assert second["limiter"]["waiting"] == "samples wait for the first transitions"
    picture = matplotlib.image.imread(io.BytesIO(sheet.read_bytes()))
    assert picture.shape[0] == 4 * 24 + 5 * (7 * 12 + 4)  # headings, and frames enlarged sevenfold


@pytest.mark.usefixtures("shards")
def test_annotated_states_are_counted(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    replay = ShardedReplay(lambda: folder.endpoints("replay"), SPEC, rng=np.random.default_rng(0))
    data = encode_chunk(make_chunk(1, spec=SPEC), SPEC)
    replay.insert("teacher", [data], writer_id="w", first_sequence=0, timeout_seconds=10)
    batch = next(replay.scan("teacher", 5, view=View(n_step=1, stack=2)))
    assert replay.annotate("teacher", batch.keys, np.ones((5, 2))) == 5
    replay.close()
    assert run(folder, "--json", "--table", "teacher") == 0
    records = json.loads(capsys.readouterr().out)["tables"]["teacher"].values()
    assert sorted(record["num_annotated"] for record in records) == [0, 5]
    assert {record["annotation_width"] for record in records} == {2}


@pytest.mark.usefixtures("shards")
def test_a_view_for_people_names_every_shard(
    folder: RunFolder, shards: list[ReplayShard], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    insert(folder, range(2))
    shards[1].stop(grace_seconds=0.1)
    assert run(folder, "--table", "online") == 0
    output = capsys.readouterr().out
    for text in ("table online", "16 of 80", "policy versions", "0 to 1", "nobody", "shard 1 does not answer"):
        assert text in output
    assert "teacher" not in output


@pytest.mark.usefixtures("shards")
def test_what_cannot_be_done_is_said_with_its_remedy(
    folder: RunFolder, shards: list[ReplayShard], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--table", "nope") == 2
    assert "this shard has online, teacher" in capsys.readouterr().err
    assert run(folder, "--sheet", str(tmp_path / "nowhere" / "sheet.png")) == 2
    assert "--sheet" in capsys.readouterr().err
    assert run(folder, "--windows", "65", "--sheet", str(tmp_path / "sheet.png")) == 2
    assert "--windows" in capsys.readouterr().err
    for shard in shards:
        shard.stop(grace_seconds=0.1)
    assert run(folder) == 2
    assert "is not running" in capsys.readouterr().err
    folder.update_manifest(state="finished")
    assert run(folder) == 2
    assert "is not running (finished)" in capsys.readouterr().err


def shown(frames: Array) -> ShownWindows:
    number = len(frames)
    return ShownWindows(
        Windows(frames, np.arange(number), np.ones(number, np.float32), np.full(number, 0.97, np.float32)),
        np.full(number, 0.5),
        np.arange(number),
    )


def test_frames_stand_side_by_side_in_the_sheet() -> None:
    frames = np.zeros((1, 3, 64, 64), np.uint8)
    frames[0, 0], frames[0, 1], frames[0, 2] = 10, 120, 250
    picture = matplotlib.image.imread(io.BytesIO(contact_sheet([SheetPart("one", shown(frames))])))
    grey = np.round(picture[24 + 34, :, 0] * 255)
    assert [grey[4 + 32], grey[4 + 68 + 32], grey[4 + 136 + 32]] == [10, 120, 250]
    assert [grey[4 + 65], grey[4 + 68 + 65]] == [255, 255]


def test_vectors_and_empty_parts_can_be_drawn() -> None:
    vectors = np.linspace(-1, 1, 2 * 2 * 5, dtype=np.float32).reshape(2, 2, 5)
    parts = [SheetPart("vectors", shown(vectors)), SheetPart("none", shown(vectors[:0]))]
    assert contact_sheet(parts).startswith(b"\x89PNG")
    assert contact_sheet([]).startswith(b"\x89PNG")
