"""The replay service, measured: `python -m benchmarks.replay --game pong --seconds 5 --json` prints one JSON line.

An item is a transition (s, a, R, gamma, s') with n = 3 and a stack of 4 frames of 84x84: 7 frames, 49,392 bytes.
Shards are processes, the client is `ShardedReplay` in this one. Every figure gets `--seconds`, cut into windows that
alternate with those of the others, and is the median of them.

    insert_items_per_s            existing chunks: compressed and encoded as actors do, sent, acknowledged
    sample_{shm,tcp,unix}_...     batches in the learner's memory, over that transport alone
    sample_{warm,cold}_...        the same from those tiers, over the transport that the client chooses itself
    update_items_per_s            priorities written back
    bytes_per_item_{tier}         memory of a full table, as it counts it: chunks, columns, priorities and their index
    wire_bytes_per_item_tcp       counted by a relay between client and shard, framing and requests included
    {client,server}_us_per_item   CPU time of all threads of the process, sampling through shared memory
    actor_us_per_step             CPU time of an actor's rows into chunks, encoded, sent, acknowledged
    copy_limit_items_per_s        windows copied at random out of 1.4 GB, on one core, in the same minutes

TCP is measured on `--tcp-tier`, warm unless told otherwise: what an actor compressed travels as it is. Before
anything is timed, a relay makes sure that windows come to each client the way that its figure names. If other processes
took much of the machine meanwhile, standard error says so: then the rates are theirs as much as ours.

    --scaling        1, 2, 4 shards x 1, 4, 16 clients: rates, CPU of each process, and what limits them
    --many-clients   64 writers and 4 learners at once on one shard: throughput, fairness, memory
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import crowds
from benchmarks.cluster import Cluster, Way, travels_by
from benchmarks.measure import Disturbance, Rate, Window, interleaved, is_disturbed, median
from benchmarks.operations import (
    Writer,
    acting,
    copying,
    counted_bytes_per_item,
    draw,
    fill,
    inserting,
    prepared,
    sampling,
    updating,
)
from benchmarks.workload import GAMES, Play, place_of, recorded
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import Tier, Transport
from upcycle.runs.runtime import configure_logging, keep_heap

_TIERS: Final[tuple[Tier, ...]] = ("raw", "warm", "cold")


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Attributes:
      batch_size: transitions of a learner's batch.
      batches_per_request: batches drawn together.
      in_flight: requests under way at once, each by a thread of its own, as `learner.requests_in_flight` has it.
      stored: transitions in each table.
      shards: of each cluster.
      tcp_tier: sampled over TCP and Unix sockets; None is warm.
      compressed: actors compress frames.
      rounds: windows of each figure.
      seconds: of all windows of a figure together.
    """

    batch_size: int = 512
    batches_per_request: int = 4
    in_flight: int = 2
    stored: int = 100_000
    shards: int = 1
    tcp_tier: Tier | None = None
    compressed: bool = True
    rounds: int = 5
    seconds: float = 5.0


class Bench:
    """Filled clusters of every tier, and clients of them. Used within `bench`."""

    def __init__(self, play: Play, options: Options, stack: ExitStack) -> None:
        self.options, self._play, self._stack = options, play, stack
        self.spec, self._chunks = prepared(play)
        self._compressed = options.compressed
        self.clusters, self.bytes_per_item = dict[Tier, Cluster](), dict[Tier, float]()
        for tier in _TIERS:
            self._fill(tier)
        self._tcp_tier: Tier = options.tcp_tier or "warm"

    def windows(self) -> dict[str, Window]:
        """The window of every rate."""
        return {
            "insert": self._with("raw", "auto", self._inserting),
            "sample_shm": self._with("raw", "auto", self._sampling),
            "sample_tcp": self._with(self._tcp_tier, "tcp", self._sampling),
            "sample_unix": self._with(self._tcp_tier, "unix", self._sampling),
            "sample_warm": self._with("warm", "auto", self._sampling),
            "sample_cold": self._with("cold", "auto", self._sampling),
            "update": self._with("raw", "auto", self._updating),
            "actor": self._with("raw", "auto", self._acting),
            "copy_limit": copying(batch_size=self.options.batch_size, num_batches=self.options.batches_per_request),
        }

    def wire_bytes_per_item(self) -> float:
        """Bytes that one transition sampled over TCP costs the wire."""
        return self._travelling("tcp", self._tcp_tier, "tcp")

    def check_ways(self) -> None:
        """Raises RuntimeError if windows come to some client another way than its figure says."""
        self._travelling("shared_memory", "raw", "auto")
        self._travelling("unix", self._tcp_tier, "unix")

    def _travelling(self, way: Way, tier: Tier, transport: Transport) -> float:
        """Bytes by item through a relay, of windows that come this way."""
        size = self.options.batch_size
        found, bytes_per_item = travels_by(
            self.clusters[tier], transport, lambda client: len(draw(client, size).probabilities)
        )
        if found != way:
            raise RuntimeError(f"windows of the {tier} tier come by {found} here, not by {way}")
        return bytes_per_item

    def _with(self, tier: Tier, transport: Transport, make: Callable[[ShardedReplay, Cluster], Window]) -> Window:
        """A window over a client of that tier's cluster that has only this transport."""
        cluster = self.clusters[tier]
        client = cluster.open_client(transport)
        self._stack.callback(client.close)
        return make(client, cluster)

    def _sampling(self, client: ShardedReplay, cluster: Cluster) -> Window:
        options = self.options
        return sampling(
            client,
            cluster.pids,
            batch_size=options.batch_size,
            batches_per_request=options.batches_per_request,
            in_flight=options.in_flight,
        )

    def _inserting(self, client: ShardedReplay, cluster: Cluster) -> Window:
        return inserting(Writer(client, self.spec, self._chunks, compressed=self._compressed), cluster.pids)

    def _acting(self, client: ShardedReplay, cluster: Cluster) -> Window:
        writer = Writer(client, self.spec, self._chunks, compressed=self._compressed)
        return acting(writer, self.spec, self._play, cluster.pids)

    def _updating(self, client: ShardedReplay, cluster: Cluster) -> Window:
        options = self.options
        return updating(
            client, cluster.pids, batch_size=options.batch_size, batches_per_request=options.batches_per_request
        )

    def _fill(self, tier: Tier) -> None:
        stored = self.options.stored
        cluster = Cluster(self.spec, tier=tier, capacity=stored, shards=self.options.shards)
        self.clusters[tier] = self._stack.enter_context(cluster)
        fill(cluster, self._chunks, stored, compressed=tier != "raw" and self._compressed)
        self.bytes_per_item[tier] = counted_bytes_per_item(tier, self.spec, self._chunks, stored=stored)


@contextmanager
def bench(play: Play, options: Options) -> Generator[Bench]:
    """Everything started and filled; stopped at the end."""
    with ExitStack() as stack:
        yield Bench(play, options, stack)


def measure(play: Play, options: Options) -> dict[str, float | int | None]:
    """The figures of the JSON line."""
    with bench(play, options) as subject:
        subject.check_ways()
        wire = subject.wire_bytes_per_item()
        windows = subject.windows()
        rates = interleaved(windows, rounds=options.rounds, seconds=options.seconds / options.rounds)
        return figures(rates, subject.bytes_per_item, wire=wire, shards=options.shards)


def figures(
    rates: Mapping[str, list[Rate]], bytes_per_item: Mapping[Tier, float], *, wire: float, shards: int
) -> dict[str, float | int | None]:
    """Medians under the names of the JSON line; None for what was not measured."""

    def of(name: str, value: Callable[[Rate], float], digits: int = 0) -> float | None:
        return round(median(map(value, rates[name])), digits) if name in rates else None

    def per_second(name: str) -> float | None:
        return of(name, lambda rate: rate.items_per_s)

    sampled = ("sample_shm", "sample_tcp", "sample_unix", "sample_warm", "sample_cold")
    return {
        **{f"{name}_items_per_s": per_second(name) for name in ("insert", *sampled, "update")},
        **{f"bytes_per_item_{tier}": _rounded(bytes_per_item.get(tier)) for tier in _TIERS},
        "wire_bytes_per_item_tcp": round(wire, 1),
        "client_us_per_item_shm": of("sample_shm", lambda rate: rate.client_us, 2),
        "server_us_per_item_shm": of("sample_shm", lambda rate: rate.server_us, 2),
        "actor_us_per_step": of("actor", lambda rate: rate.client_us, 2),
        "copy_limit_items_per_s": per_second("copy_limit"),
        "shards": shards,
        "clients": 1,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def main() -> None:
    """Prints one JSON line, or tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), default="pong")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each figure (default 5)")
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    parser.add_argument("--workload", type=Path, help="folder in which plays are kept (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=5, help="windows that the seconds are cut into")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--batches-per-request", type=int, default=4, help="batches drawn together (default 4)")
    parser.add_argument("--in-flight", type=int, default=2, help="requests under way at once (default 2)")
    parser.add_argument("--stored", type=int, default=100_000, help="transitions in each table")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--tcp-tier", choices=_TIERS, help="sampled over TCP and unix sockets")
    parser.add_argument("--uncompressed", action="store_true", help="actors send raw frames")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--many-clients", action="store_true")
    arguments = parser.parse_args()
    options = Options(
        batch_size=arguments.batch_size,
        batches_per_request=arguments.batches_per_request,
        in_flight=arguments.in_flight,
        stored=arguments.stored,
        shards=arguments.shards,
        tcp_tier=arguments.tcp_tier,
        compressed=not arguments.uncompressed,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    keep_heap()
    configure_logging("benchmark", "replay", file=None)  # standard output is for the figures
    disturbance = Disturbance()
    with tempfile.TemporaryDirectory(prefix="upcycle-workload-") as scratch:
        folder = arguments.workload or Path(scratch)
        play = recorded(arguments.game, folder)
        if arguments.scaling or arguments.many_clients:
            report = crowds.scaling if arguments.scaling else crowds.many_clients
            found = report(
                play,
                place_of(arguments.game, folder),
                batch_size=options.batch_size,
                batches_per_request=options.batches_per_request,
                stored=options.stored,
                seconds=options.seconds,
            )
            print(json.dumps(found) if arguments.json else crowds.table(found))
            return
        values = measure(play, options)
    if is_disturbed(others := disturbance.cores()):
        print(f"disturbed: other processes kept {others:.2f} cores busy; repeat on a quiet machine", file=sys.stderr)
    if arguments.json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        print(f"{name:28} {'null' if value is None else format(value, ',.2f'):>14}")


if __name__ == "__main__":
    main()
