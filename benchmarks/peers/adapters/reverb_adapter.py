"""Reverb: one C++ server process, one Python client, TCP on loopback, in the best configurations known to us.

Variant "chunk8" is measured; variant "saved" is filled once, and does nothing but "save".

Inserts: one `TrajectoryWriter`, one frame per append, an item is the last 7 frames, so frames are shared. Sampling:
`TrajectoryDataset` with 4 workers, batched by TensorFlow. Chunks of 8 frames serve sampling and memory best.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from benchmarks.measure import Rate, Window, resident_bytes, timed
from benchmarks.peers.frame_log import (
    BATCH_SIZES,
    N_STEP,
    PRIORITY_EXPONENT,
    SMALL_SHARE,
    STACK,
    UPDATE_BATCHES,
    FrameLog,
    arguments,
    facts_line,
    versions,
)
from benchmarks.workers import serve

_TABLE = "online"
_WINDOW = STACK + N_STEP
_CHUNK_LENGTH = 8
_WORKERS = 4
_BUFFERED_BATCHES = 2  # in flight for each worker
_FLUSH_ITEMS = 8
_PENDING_ITEMS = 512  # as many as one of our inserts carries; waiting for every flush halves the rate


def serve_table(capacity: int) -> None:
    """The server process: prints its port, ends with its input."""
    signature = {
        "frame": tf.TensorSpec((_WINDOW, 84, 84), tf.uint8),
        "action": tf.TensorSpec((1,), tf.int32),
        "n_step_return": tf.TensorSpec((1,), tf.float32),
        "discount": tf.TensorSpec((1,), tf.float32),
    }
    table = reverb.Table(
        name=_TABLE,
        sampler=reverb.selectors.Prioritized(PRIORITY_EXPONENT),
        remover=reverb.selectors.Fifo(),
        max_size=capacity,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature,
    )
    server = reverb.Server([table], port=None)
    print(server.port, flush=True)
    sys.stdin.read()
    server.stop()


class Server:
    """A server process with one table."""

    def __init__(self, capacity: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--server", str(capacity)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.address = f"localhost:{int(self._process.stdout.readline())}"
        self.client = reverb.Client(self.address)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Writer:
    """Appends the log over and over; each transition is an item of 7 shared frames."""

    def __init__(self, client: reverb.Client, log: FrameLog) -> None:
        self._log = log
        self._writer = client.trajectory_writer(num_keep_alive_refs=_WINDOW + _CHUNK_LENGTH)
        self._writer.configure(("frame",), num_keep_alive_refs=_WINDOW + _CHUNK_LENGTH, max_chunk_length=_CHUNK_LENGTH)
        self._rows = itertools.cycle(range(len(log) - N_STEP))
        self._unflushed = 0

    def append(self) -> int:
        """Appends one frame, makes the item that ends with it; returns the items made."""
        log, row = self._log, next(self._rows)
        start = max(row - N_STEP, 0)
        self._writer.append(
            {
                "frame": log.frame[row],
                "action": log.action[start],
                "n_step_return": log.n_step_return[start],
                "discount": log.discount[start],
            }
        )
        if self._writer.episode_steps < _WINDOW:
            return 0
        history = self._writer.history
        self._writer.create_item(
            _TABLE,
            float(log.priority[start]),
            {
                "frame": history["frame"][-_WINDOW:],
                "action": history["action"][-1:],
                "n_step_return": history["n_step_return"][-1:],
                "discount": history["discount"][-1:],
            },
        )
        self._unflushed += 1
        if self._unflushed >= _FLUSH_ITEMS:
            # Without a limit the writer runs ahead of the server.
            self._writer.flush(block_until_num_items=_PENDING_ITEMS)
            self._unflushed = 0
        return 1

    def fill(self, items: int) -> None:
        """Inserts so many items and waits until they are acknowledged."""
        made = 0
        while made < items:
            made += self.append()
        self._writer.flush()

    def window(self, servers: list[int]) -> Window:
        """Inserts for a while; the wait for the last acknowledgement counts."""

        def run(seconds: float) -> Rate:
            rate = timed(self.append, seconds=seconds, servers=servers)
            self._writer.flush()
            return rate

        return run


class Learner:
    """Batches out of a dataset that stays open; its workers stand still while their buffers are full."""

    def __init__(self, server: Server, batch_size: int) -> None:
        self._server, self._batch_size = server, batch_size
        self._batches: Iterator[Any] | None = None

    def sample(self, seconds: float) -> Rate:
        """Samples for a while."""
        self._drain()
        return timed(lambda: int(self._next().data["frame"].shape[0]), seconds=seconds, servers=[self._server.pid])

    def update(self, seconds: float) -> Rate:
        """New priorities for keys that are in the table."""
        self._drain()
        keys = [self._next().info.key.numpy() for _ in range(UPDATE_BATCHES)]
        rng = np.random.default_rng(0)
        # The client wants a dictionary, which a learner has to make anyway; here it is made before the clock starts.
        updates = itertools.cycle(
            dict(zip(part.tolist(), (rng.random(len(part)) + 0.01).tolist(), strict=True)) for part in 2 * keys
        )

        def step() -> int:
            self._server.client.mutate_priorities(_TABLE, updates=next(updates))
            return self._batch_size

        return timed(step, seconds=seconds, servers=[self._server.pid])

    def _drain(self) -> None:
        """Takes what was fetched between the windows, which would be free otherwise."""
        for _ in range(_BUFFERED_BATCHES * _WORKERS):
            self._next()

    def _next(self) -> Any:
        if self._batches is None:
            dataset = reverb.TrajectoryDataset.from_table_signature(
                server_address=self._server.address,
                table=_TABLE,
                max_in_flight_samples_per_worker=_BUFFERED_BATCHES * self._batch_size,
                num_workers_per_iterator=_WORKERS,
            )
            self._batches = iter(dataset.batch(self._batch_size, drop_remainder=True))
        return next(self._batches)


def serve_saving(log: FrameLog, stored: int) -> None:
    """Fills the table, then saves it on command; the server answers nothing else while it does."""
    server = Server(stored)

    def save(_seconds: float) -> Rate:
        def step() -> int:
            server.client.checkpoint()
            return stored

        return timed(step, seconds=0.0, servers=[server.pid])

    try:
        Writer(server.client, log).fill(stored)
        serve({"save": save}, facts_line(versions="", note="", bytes_per_item=None, operations=["save"]))
    finally:
        server.close()


def main(values: list[str]) -> None:
    """Fills the table, then measures on command."""
    if values[0] == "--server":
        serve_table(int(values[1]))
        return
    log, stored, variant = arguments(values)
    if variant == "saved":
        serve_saving(log, stored)
        return
    assert variant == "chunk8", variant
    small_capacity = stored // SMALL_SHARE
    memory, server = list[int](), None
    for capacity in (small_capacity, stored):
        if server is not None:
            server.close()
        server = Server(capacity)
        writer = Writer(server.client, log)
        writer.fill(stored)
        time.sleep(1.0)  # removed items are freed a little later
        memory.append(resident_bytes(server.pid))
    windows: dict[str, Window] = {"insert": writer.window([server.pid])}
    for size in BATCH_SIZES:
        learner = Learner(server, size)
        windows |= {f"sample/{size}": learner.sample, f"update/{size}": learner.update}
    facts = facts_line(
        versions=versions("dm-reverb", "tensorflow-cpu"),
        note=f"TrajectoryWriter, shared frames, chunks of {_CHUNK_LENGTH}; TrajectoryDataset, {_WORKERS} workers",
        bytes_per_item=(memory[1] - memory[0]) / (stored - small_capacity),
        operations=list(windows),
    )
    try:
        serve(windows, facts)
    finally:
        server.close()


if __name__ == "__main__":
    main(sys.argv[1:])
