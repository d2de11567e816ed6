"""One replay shard as a process: `python -m replay_service SHARD.json`.

The file holds {"index", "spec": ChunkSpec, "tables": [TableConfig, ...], "env": EnvConfig} and may hold "log" (folder
of this shard's experience log), "run", "host" and "port". The process prints one JSON line with its addresses once it
serves, and stops cleanly on SIGTERM, SIGINT or SIGHUP. With a log, the table `online` begins with what the log holds.
"""

import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from replay_service.server.shard import ReplayShard
from replay_service.table.types import TableConfig
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.runs.metrics import Metrics
from upcycle.runs.runtime import keep_heap
from upcycle.streams import leavable_streams


def main(arguments: list[str]) -> int:
    """Serves until a signal comes. Returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m replay_service SHARD.json", file=sys.stderr)
        return 2
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    try:
        values = _read(Path(arguments[0]))
        keep_heap()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # as `nohup` has it
                signal.signal(number, on_signal)
        with leavable_streams():
            _serve(values, stop)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError("shard file", str(path), f"cannot be read ({error})", "give a JSON file") from error


def _serve(values: dict[str, Any], stop: threading.Event) -> None:
    spec = ChunkSpec.from_json(values["spec"])
    tables = [TableConfig(**table) for table in values["tables"]]
    folder = Path(values["log"]) if values.get("log") else None
    log = ExperienceLogWriter.open(folder, spec, EnvConfig(**values["env"])) if folder is not None else None
    metrics = Metrics("replay", str(values.get("run", "run")), int(values["index"]))
    try:
        shard = ReplayShard(
            index=int(values["index"]),
            spec=spec,
            tables=tables,
            log=log,
            metrics=metrics,
            host=str(values.get("host", "127.0.0.1")),
            port=int(values.get("port", 0)),
        )
        if folder is not None:
            capacity = next((table.capacity_steps for table in tables if table.name == "online"), 0)
            shard.seed("online", ExperienceLogReader.open(folder), newest_transitions=capacity)
        address = shard.start()
        print(json.dumps({"address": address, "metrics": metrics.serve()}), flush=True)
        try:
            while not stop.wait(timeout=1.0):
                pass
        finally:
            shard.stop()
    finally:
        if log is not None:
            log.close()
        metrics.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
