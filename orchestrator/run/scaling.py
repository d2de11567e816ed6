"""More or fewer replay shards while a run goes on: the driver's side, and `upcycle replay scale`, which asks for it."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.processes.shard_set import ShardSet
from orchestrator.run.state import describe
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.runs.run_folder import Record, RunFolder

_POLL_SECONDS: Final = 0.2


class ShardScaling:
    """Follows requests in the run's folder, which also keeps the answer, so that a resumed run goes on from there.

    Attributes:
      shards: that the run has now.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder
        self.shards = ShardSet.read(folder, config)
        if folder.shards() is not None:
            self._change(self.shards.new_stretch())

    def take_request(self, *, now: float) -> str | None:
        """Does what somebody has asked for, if anybody has; returns a line about it. `now` is in Unix seconds."""
        request = self._folder.scale_request()
        if request is None:
            return None
        self._change(self.shards.scaled_to(int(request["num_shards"]), leave_by=now + float(request["drain_seconds"])))
        return f"replay has {_in_words(self.shards)}"

    def take_leave(self, details: Mapping[int, Mapping[str, Any]], *, now: float) -> list[int]:
        """Lets shards go that have drained for long enough, and returns them: no client will call them any more.

        Args:
          details: of each shard that answers, what `ShardLoop.status` says.
        """
        leaving = self.shards.leaving(details, now=now)
        for index in leaving:
            self._change(self.shards.without(index))  # first: should this process die here, it is not started again
            self._folder.withdraw("replay", index)
        return leaving

    def _change(self, shards: ShardSet) -> None:
        self._folder.write_shards(shards.to_json())
        self.shards = shards


def scale(path: Path, *, num_shards: int, drain_seconds: float, timeout_seconds: float, as_json: bool) -> int:
    """Asks for so many replay shards, and returns once new ones serve and surplus ones drain.

    Raises: UserError if the run is not running, cannot do with so few shards, or its driver has not answered in time.
    """
    folder = RunFolder.open(path)
    record, config = describe(folder), folder.config
    if record["state"] not in ("running", "created"):
        raise UserError("run", path.name, f"is not running ({record['state']})", f"first: upcycle resume {path.name}")
    before = ShardSet.read(folder, config)
    phase = config.phases[0] if record["phase"] in (None, "starting") else record["phase"]
    draws_from_teacher = phase == "offline" or (phase == "online" and config.online.teacher_fraction > 0)
    if num_shards < len(before.taking) and draws_from_teacher:
        raise UserError(
            "--shards",
            num_shards,
            f"is below {len(before.taking)}, each of which holds a part of the teacher's log for the phase {phase}",
            "scale down once that phase is over",
        )
    folder.request_scale(num_shards, drain_seconds)
    deadline = time.monotonic() + timeout_seconds
    while not _is_done(folder, shards := ShardSet.read(folder, config), num_shards):
        if time.monotonic() > deadline:
            raise UserError(
                "run",
                path.name,
                f"has not come to {num_shards} shards within {timeout_seconds:g} s",
                f"see `upcycle status {path.name}`; ask again, with a longer --timeout",
            )
        time.sleep(_POLL_SECONDS)
    answer: Record = {"run": path.name, "shards": list(shards.taking), "draining": sorted(shards.draining)}
    print(json.dumps(answer) if as_json else f"{path.name}: {_in_words(shards)}")
    return 0


def _is_done(folder: RunFolder, shards: ShardSet, num_shards: int) -> bool:
    """Whether the driver has answered, and every shard that is to take chunks serves."""
    return (
        folder.scale_request() is None
        and len(shards.taking) == num_shards
        and set(shards.taking) <= set(folder.endpoints("replay"))
    )


def _in_words(shards: ShardSet) -> str:
    words = f"shards {', '.join(map(str, shards.taking))}"
    return words + (f"; draining: {', '.join(map(str, sorted(shards.draining)))}" if shards.draining else "")
