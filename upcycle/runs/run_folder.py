"""A run is a folder: everything that is true about it is a file in here.

    config.toml     the whole configuration               manifest.json   identity, versions, teacher, state
    checkpoints/    what the learner needs to go on       snapshots/      published policy versions
    experience/     shard-<k>/: the experience log        scores.jsonl    one evaluation per line
    events/         TensorBoard                           logs/           JSON lines, one file per process
    endpoints/      where processes listen now            status/         their newest heartbeat
    phases.json     the phases that have ended            shards.json     the replay shards, once scaled
    tuning.json     how the learner computes, and why
    summary.json    report.html

Beside it, while the run goes on: <run>.targets.json, its processes' metrics for Prometheus (file_sd, whose patterns
reach into one folder only). Redis only repeats parts of it (`tracker`). Nobody but the owner may look into the
folder, or read a file that says where a process listens.
"""

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from upcycle.config.extension_use import RecordedExtension
from upcycle.config.io import dump_config, load_config
from upcycle.config.run import RunConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import disk_full_explained, read_json, read_json_files, replace_unsynced, write_atomically

FORMAT: Final = 1

_PRIVATE: Final = 0o600

Record = dict[str, Any]
"""A flat JSON object."""


class RunFolder:
    """Paths and small files of one run. Opening is cheap, nothing is cached: other processes write here as well.

    Manifest keys: `format`, `run_id` (unique for ever), `name`, `created` (Unix seconds), `preset`, `versions`,
    `state` ("created", "running", "finished", "stopped" or "failed"), `driver` ({pid, host}), `teachers` (of each: id,
    name, score, store, log), `teacher` (the best of them, or null), `random_score`, `chunk_spec` (`ChunkSpec.to_json`),
    `extensions` (`RecordedExtension` of each), `wall_seconds` (of all stretches so far), `reason` (why the last
    one ended before its time, or null).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: RunConfig, **manifest: Any) -> "RunFolder":
        """Makes a new run; `manifest` adds keys to its manifest.

        The folder appears complete or not at all. Raises: UserError if `path` exists, or cannot be written.
        """
        if path.exists():
            raise UserError(
                "run",
                str(path),
                "exists already",
                "choose another --name, go on with `upcycle resume`, or pass --overwrite",
            )
        identity = {
            "format": FORMAT,
            "run_id": f"{config.name}-{uuid.uuid4().hex[:8]}",
            "name": config.name,
            "created": time.time(),
            "state": "created",
        }
        temporary: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            folder = cls(temporary)
            for inner in (folder.checkpoints, folder.snapshots, folder.experience, folder.events, folder.logs):
                inner.mkdir()
            write_atomically(temporary / "config.toml", dump_config(config).encode())
            folder._write_json("manifest.json", identity | manifest)
            temporary.rename(path)
        except OSError as error:
            raise UserError(
                "run", str(path), f"cannot be made ({error.strerror})", "choose a folder that you may write to"
            ) from error
        finally:
            if temporary is not None and temporary.exists():
                shutil.rmtree(temporary)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run.

        Raises: UserError if there is none at `path` or a newer build made it; CorruptDataError if its manifest is
          damaged; PermissionError if it may not be read.
        """
        folder = cls(path)
        if not (path / "manifest.json").is_file():
            others = sorted(p.parent.name for p in path.parent.glob("*/manifest.json")) if path.parent.is_dir() else []
            raise UserError("run", str(path), "there is no such run", f"known runs: {', '.join(others) or 'none'}")
        manifest = folder.manifest
        if manifest.get("format") != FORMAT:
            raise UserError(
                "run", str(path), "was made by another version", "use the version named in its manifest.json"
            )
        if missing := {"run_id", "name", "created", "state"} - set(manifest):
            raise CorruptDataError(f"{path / 'manifest.json'}: lacks {', '.join(sorted(missing))}")
        return folder

    @property
    def config(self) -> RunConfig:
        """The run's configuration, read from the file; passwords that an early run let into it are left out."""
        return load_config(self.path / "config.toml", stored=True)

    @property
    def extensions(self) -> tuple[RecordedExtension, ...]:
        """What the run needs beside Upcycle; nothing in runs of versions that did not know extensions."""
        known = cast(list[Record], self.manifest.get("extensions", []))
        return tuple(RecordedExtension.model_validate(extension) for extension in known)

    def replace_config(self, config: RunConfig) -> None:
        """Changes the configuration (resuming with other settings)."""
        write_atomically(self.path / "config.toml", dump_config(config).encode())

    @property
    def manifest(self) -> Record:
        """The manifest, read from the file. Raises: CorruptDataError."""
        return read_json(self.path / "manifest.json")

    def update_manifest(self, **values: Any) -> None:
        """Sets keys of the manifest; only the driver calls it."""
        self._write_json("manifest.json", self.manifest | values)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Folder of published weights."""
        return self.path / "snapshots"

    @property
    def experience(self) -> Path:
        """Folder of the experience log, `shard-<k>` inside."""
        return self.path / "experience"

    @property
    def events(self) -> Path:
        """Folder of TensorBoard event files."""
        return self.path / "events"

    @property
    def logs(self) -> Path:
        """Folder of log files."""
        return self.path / "logs"

    @property
    def summary(self) -> Path:
        """The summary file."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report file."""
        return self.path / "report.html"

    @property
    def metrics_targets(self) -> Path:
        """The list of metric endpoints; there while the run goes on."""
        return self.path.with_name(f"{self.path.name}.targets.json")

    def announce_endpoint(self, role: str, index: int, address: str) -> None:
        """Says where a process listens; its generation is one above that of its predecessor."""
        path = self.path / "endpoints" / f"{role}-{index}.json"
        generation = int(read_json(path)["generation"]) + 1 if path.exists() else 0
        values = {"address": address, "generation": generation, "pid": os.getpid(), "time": time.time()}
        _replace(path, values, mode=_PRIVATE)

    def endpoints(self, role: str) -> dict[int, str]:
        """Addresses by index, as announced by now. Never keep them: a restarted process listens elsewhere."""
        known = read_json_files(self.path / "endpoints", f"{role}-*.json")
        return {int(name.rpartition("-")[2]): str(values["address"]) for name, values in known.items()}

    def withdraw(self, role: str, index: int) -> None:
        """Takes a process's endpoint and heartbeat back: it is about to leave for good, or to be started anew."""
        for name in ("endpoints", "status"):
            (self.path / name / f"{role}-{index}.json").unlink(missing_ok=True)

    def forget_processes(self) -> None:
        """Removes endpoints, heartbeats and requests of an earlier stretch of this run."""
        for name in ("endpoints", "status"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("stop", "scale.json"):
            (self.path / name).unlink(missing_ok=True)

    def append_score(self, record: Mapping[str, Any]) -> None:
        """Adds one line to scores.jsonl; on disk when it returns.

        Keys: phase, env_frames, learner_steps, policy_version, mean_return, normalised (or null), episodes, returns,
        kind ("evaluation", "playoff" or "final").
        """
        path = self.path / "scores.jsonl"
        line = json.dumps(dict(record), allow_nan=False).encode() + b"\n"
        with disk_full_explained(path), path.open("a+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line  # the writer before was killed in the middle of its line
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    def scores(self) -> list[Record]:
        """All scores in the order of writing; a torn line is left out."""
        path = self.path / "scores.jsonl"
        records: list[Record] = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            try:
                records.append(cast(Record, json.loads(line)))
            except json.JSONDecodeError:
                continue
        return records

    def write_phases(self, records: Sequence[Mapping[str, Any]]) -> None:
        """The phases that have ended, in order; only the learner calls it.

        Keys of a record: phase, learner_steps, env_frames, seconds, wait_seconds, teacher_states (states that the
        teachers' networks were given; all of that phase alone), distillation_multiplier (at its end).
        """
        write_atomically(self.path / "phases.json", json.dumps([dict(record) for record in records], indent=1).encode())

    def phases(self) -> list[Record]:
        """What `write_phases` wrote last; empty before the first phase has ended."""
        path = self.path / "phases.json"
        return cast(list[Record], json.loads(path.read_bytes())) if path.exists() else []

    def write_tuning(self, record: Mapping[str, Any]) -> None:
        """How the learner computes, and what was measured to choose it; only the learner calls it."""
        self._write_json("tuning.json", record)

    def tuning(self) -> Record | None:
        """What `write_tuning` wrote last; None where nothing was left open."""
        path = self.path / "tuning.json"
        return read_json(path) if path.exists() else None

    def write_metrics_targets(self, targets: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the list of metric endpoints, in the form of Prometheus's file_sd."""
        data = json.dumps([dict(target) for target in targets]).encode()
        write_atomically(self.metrics_targets, data, mode=_PRIVATE)

    def write_status(self, role: str, index: int, status: Mapping[str, Any]) -> None:
        """The heartbeat of a process; adds `pid` and `time` (Unix seconds)."""
        _replace(self.path / "status" / f"{role}-{index}.json", {"pid": os.getpid(), "time": time.time(), **status})

    def statuses(self) -> dict[str, Record]:
        """Newest heartbeats by process, "<role>-<index>"."""
        return read_json_files(self.path / "status", "*.json")

    def request_stop(self) -> None:
        """Asks the driver, wherever it runs, to end the run with a checkpoint."""
        (self.path / "stop").touch()

    def stop_requested(self) -> bool:
        """Whether somebody has asked."""
        return (self.path / "stop").exists()

    def request_scale(self, num_shards: int, drain_seconds: float) -> None:
        """Asks the driver, wherever it runs, for so many replay shards; see `orchestrator.processes.shard_set`."""
        _replace(self.path / "scale.json", {"num_shards": num_shards, "drain_seconds": drain_seconds})

    def scale_request(self) -> Record | None:
        """What somebody has asked for and the driver has not answered yet."""
        path = self.path / "scale.json"
        return read_json(path) if path.exists() else None

    def shards(self) -> Record | None:
        """What `write_shards` wrote last; None in a run whose shards are those of its configuration."""
        path = self.path / "shards.json"
        return read_json(path) if path.exists() else None

    def write_shards(self, record: Mapping[str, Any]) -> None:
        """The replay shards of this run, and an answer to the request for them; only the driver calls it."""
        self._write_json("shards.json", record)
        (self.path / "scale.json").unlink(missing_ok=True)

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(dict(values), indent=2, default=str).encode() + b"\n")


def _replace(path: Path, values: Mapping[str, Any], *, mode: int = 0o644) -> None:
    path.parent.mkdir(exist_ok=True)
    replace_unsynced(path, json.dumps(dict(values)).encode(), mode=mode)
