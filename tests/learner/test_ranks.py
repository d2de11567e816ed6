"""Two real ranks over gloo do what one does; and none waits for one that is gone."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.ranks import Order, RankLost, Ranks, Verdict
from learner.rendezvous import meet
from tests.helpers import rank_process
from upcycle.config.run import NetworkConfig
from upcycle.networks.q_network import build_network
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal

pytestmark = pytest.mark.slow

_DEADLINE_SECONDS = 250.0


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes met with, by rank."""
    path, spawn = tmp_path_factory.mktemp("ranks"), multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=rank_process.main, args=(rank, path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_DEADLINE_SECONDS)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 9]
    return [torch.load(path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_on_halves_of_a_batch_end_where_one_ends_on_the_whole(results: list[dict[str, Any]]):
    alone = [parameter.detach() for parameter in rank_process.train(Ranks.single()).online_network.parameters()]
    for first, second, one in zip(results[0]["parameters"], results[1]["parameters"], alone, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, one, rtol=1e-5, atol=1e-6)


def test_two_ranks_leave_a_frozen_torso_alone_and_learn_the_rest(results: list[dict[str, Any]]):
    trained = rank_process.train(Ranks.single(), frozen_torso=True)
    names = [name for name, _ in trained.online_network.named_parameters()]
    torch.manual_seed(0)
    config = NetworkConfig(kind="nature", width=0.25, hidden=16)
    untouched = build_network(config, frame_shape=(42, 42), stack=2, num_actions=rank_process.NUM_ACTIONS)
    start, alone = dict(untouched.named_parameters()), dict(trained.online_network.named_parameters())
    for name, first, second in zip(names, results[0]["frozen"], results[1]["frozen"], strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, alone[name].detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(first, start[name]) == name.startswith("torso.")


def test_all_ranks_agree_on_what_they_do_not_see_alike(results: list[dict[str, Any]]):
    expected = [
        ("CONTINUE", False, False, 1.0),
        ("CONTINUE", True, True, 3.0),
        ("END_PHASE", False, False, 1.0),
        ("CONTINUE", True, False, 1.0),
        ("STOP", False, False, 1.0),
        ("STOP", False, False, 1.0),
        ("ROLL_BACK", False, False, 1.0),
    ]
    assert results[0]["agreements"] == results[1]["agreements"] == expected


def test_what_rank_0_keeps_reaches_all_and_what_all_keep_reaches_it(results: list[dict[str, Any]]):
    assert [result["waited"] for result in results] == [True, True]
    assert [result["from_first"] for result in results] == [40, 40]
    assert [result["gathered"] for result in results] == [[7, 8], [7, 8]]


def test_parameters_that_differ_by_a_bit_are_noticed_by_every_rank(results: list[dict[str, Any]]):
    assert [result["differ"] for result in results] == [
        f"rank {rank} of 2: parameters differ between the ranks" for rank in range(2)
    ]


def test_a_rank_that_dies_does_not_leave_the_other_waiting(results: list[dict[str, Any]]):
    assert results[0]["lost"].startswith("rank 0 of 2 has lost another rank (")


@pytest.mark.parametrize(
    ("order", "weight", "step"),
    [
        (Order(Verdict.CONTINUE, 0.5, 0.1), 3.0, True),
        (Order(Verdict.CONTINUE, 0.5, 0.1), None, False),
        (Order(Verdict.END_PHASE, 0.5, 0.1, checkpoint=True), 3.0, False),
        (Order(Verdict.STOP, 0.5, 0.1), 3.0, False),
    ],
)
def test_a_single_rank_agrees_with_itself(order: Order, weight: float | None, step: bool):
    with Ranks.single() as ranks:
        ranks.barrier()
        agreement = ranks.agree(order, weight)
        module = torch.nn.Linear(2, 2)
        assert ranks.wrap(module) is module
        assert (ranks.is_first, ranks.broadcast(5), ranks.rows_per_rank(32)) == (True, 5, 32)
    assert (agreement.verdict, agreement.step, agreement.checkpoint) == (order.verdict, step, order.checkpoint)
    assert agreement.largest_weight == (weight or 1.0)


@pytest.mark.parametrize(
    ("size", "text", "kind"),
    [
        (2, "[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1", RankLost),
        (2, "NCCL communicator was aborted on rank 1", RankLost),
        (2, "mat1 and mat2 shapes cannot be multiplied", RuntimeError),
        (1, "NCCL is not compiled in", RuntimeError),
    ],
)
def test_a_backward_pass_without_the_others_says_so_and_hides_no_other_error(
    size: int, text: str, kind: type[Exception]
):
    with pytest.raises(kind), Ranks(0, size).averaging():
        raise RuntimeError(text)


def test_rows_that_cannot_be_shared_equally_are_refused():
    with pytest.raises(ValueError, match="3 ranks cannot share 32 rows equally"):
        Ranks(1, 3).rows_per_rank(32)


@pytest.mark.parametrize(
    ("rank", "stopped", "problem"),
    [
        (0, False, "rank 0: 1 of 2 ranks have arrived in time"),
        (0, True, "rank 0: 1 of 2 ranks have arrived, and the run was stopped"),
        (1, False, "rank 1: rank 0 has not announced itself in time"),
    ],
)
def test_a_rank_that_stays_alone_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, stopped: bool, problem: str
):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    folder, stop = RunFolder(tmp_path), StopSignal()
    if stopped:
        stop.set()
    with pytest.raises(RankLost, match=problem):
        meet(
            folder,
            rank=rank,
            size=2,
            host="127.0.0.1",
            device=torch.device("cpu"),
            stop=stop,
            answer_seconds=1.0,
            meet_seconds=0.3,
        )
    assert set(folder.endpoints("learner")) == ({0} if rank == 0 else set())
