"""A replay shard as a process of its own, for tests that kill it."""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from replay_service.table.types import TableConfig
from tests.helpers.chunk_factory import ENV, SPEC
from tests.helpers.paths import ROOT

DEADLINE_SECONDS = 120.0


class ShardProcess:
    """`python -m replay_service` with a log folder of its own."""

    def __init__(self, folder: Path, index: int, table: TableConfig) -> None:
        path = folder / f"shard-{index}.json"
        values = {
            "index": index,
            "spec": SPEC.to_json(),
            "tables": [asdict(table)],
            "env": ENV.model_dump(mode="json"),
            "log": str(folder / f"shard-{index}"),
        }
        path.write_text(json.dumps(values), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replay_service", str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_SECONDS)
        assert readable, "the shard did not say where it listens"
        self.address: str = json.loads(self.process.stdout.readline())["address"]

    def end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        code = self.process.wait(timeout=DEADLINE_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code
