import os
import socket
import threading

import pytest

from benchmarks.crowds import fairness, limit
from benchmarks.measure import Rate, cpu_seconds, interleaved, is_disturbed, median, own_cpu_seconds, timed
from benchmarks.relay import CountingRelay


def test_a_rate_is_items_by_time_and_time_by_items():
    rate = Rate(items=1000, seconds=0.5, client_seconds=0.01, server_seconds=0.002)
    assert rate.items_per_s == 2000
    assert rate.client_us == pytest.approx(10)
    assert rate.server_us == pytest.approx(2)
    assert Rate(**rate.to_json()) == rate


def test_every_step_runs_at_least_once_and_is_counted_apart():
    rate = timed(lambda: 3, lambda: 5, seconds=0.0)
    assert list(rate.parts) == [3, 5]
    assert rate.items == 8


def test_windows_take_turns():
    order = list[str]()

    def window(name: str, seconds: float) -> Rate:
        order.append(name)
        return Rate(1, seconds, 0.0, 0.0)

    rates = interleaved(
        {"a": lambda seconds: window("a", seconds), "b": lambda seconds: window("b", seconds)}, rounds=3, seconds=0.1
    )
    assert order == ["a", "b"] * 3
    assert [len(found) for found in rates.values()] == [3, 3]


def test_the_median_of_nothing_is_not_a_number():
    assert median([3, 1, 100]) == 3
    assert median([]) != median([])


def test_cpu_time_of_a_process_is_the_one_it_sees_itself():
    sum(i * i for i in range(300_000))
    assert cpu_seconds(os.getpid()) == pytest.approx(own_cpu_seconds(), abs=0.1)


def test_fairness_is_the_least_by_the_most():
    assert fairness([50, 100, 80]) == 0.5
    assert fairness([0, 0]) == 0.0
    assert fairness([]) == 0.0


@pytest.mark.parametrize(
    ("shards", "clients", "other", "expected"),
    [
        ([0.95], [0.9], 0.0, "all cores of the machine are busy"),
        ([0.95], [0.3], 0.0, "a shard fills one core"),
        ([0.3], [0.95], 0.0, "a client fills one core"),
        ([0.1], [0.1], 1.7, "disturbed: other processes take the cores"),
        ([0.1], [0.1], 0.0, "no core is full: round trips and waits"),
    ],
)
def test_the_limit_is_named_by_whoever_is_busy(shards: list[float], clients: list[float], other: float, expected: str):
    assert limit(shards, clients, other=other, cores=2) == expected


def test_a_run_is_disturbed_by_a_good_part_of_a_core():
    assert not is_disturbed(0.05)
    assert is_disturbed(1.0)


def test_the_relay_counts_what_passes_both_ways():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                received = b""
                while len(received) < 1000:
                    received += connection.recv(1000)
                connection.sendall(b"y" * 500)

        thread = threading.Thread(target=answer)
        thread.start()
        with CountingRelay(f"127.0.0.1:{server.getsockname()[1]}") as relay:
            host, _, port = relay.address.rpartition(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"x" * 1000)
                received = b""
                while chunk := client.recv(1000):
                    received += chunk
            thread.join()
            assert received == b"y" * 500
        assert relay.num_bytes == 1500
