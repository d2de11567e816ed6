"""Rendezvous of a learner's ranks: a store on a free port of rank 0's machine, announced in the run folder.

rank 0: store --> endpoints/learner-0.json <-- ranks 1, 2, ...;  all have arrived --> process group
"""

import os
import time
from datetime import timedelta
from typing import Final

import psutil
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from learner.ranks import RankLost, Ranks, collective
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal

_MEET_SECONDS: Final = 300.0  # ranks import torch and wait for the shards first, maybe on loaded machines
_POLL_SECONDS: Final = 0.1
_CONNECT_SECONDS: Final = 10.0
_ARRIVED: Final = "arrived"


def meet(
    folder: RunFolder,
    *,
    rank: int,
    size: int,
    host: str,
    device: torch.device,
    stop: StopSignal,
    answer_seconds: float,
    meet_seconds: float = _MEET_SECONDS,
) -> Ranks:
    """Joins the ranks of a run's learner; returns when all are there.

    Rank 0 announces itself as endpoint "learner" 0 of the run folder, whose announcement by an earlier group
    must be withdrawn before the ranks start.

    Args:
      host: address of this machine that the other ranks can reach.
      device: of the parameters; gradients use NCCL on CUDA and gloo on the host.
      answer_seconds: deadline of every later collective.
    Raises: RankLost if a rank does not arrive in time, or `stop` is set first.
    """
    if size == 1:
        return Ranks.single()
    _use_interface_of(host)
    deadline = time.monotonic() + meet_seconds
    store = _serve(folder, host) if rank == 0 else _connect(folder, rank, deadline, stop)
    arrived = store.add(_ARRIVED, 1)
    while arrived < size:
        _wait(stop, deadline, f"rank {rank}: {arrived} of {size} ranks have arrived")
        with collective(rank, size):
            arrived = store.add(_ARRIVED, 0)
    store.set_timeout(timedelta(seconds=answer_seconds))
    with collective(rank, size):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=answer_seconds),
        )
    return Ranks(rank, size, store, stop)


def _serve(folder: RunFolder, host: str) -> TCPStore:
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    folder.announce_endpoint("learner", 0, f"{host}:{store.port}")
    return store


def _connect(folder: RunFolder, rank: int, deadline: float, stop: StopSignal) -> TCPStore:
    while True:
        if address := folder.endpoints("learner").get(0):
            host, _, port = address.rpartition(":")
            try:
                return TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=_CONNECT_SECONDS))
            except RuntimeError:
                pass  # rank 0 is gone or not ready yet; the deadline ends the retries
        _wait(stop, deadline, f"rank {rank}: rank 0 has not announced itself")


def _wait(stop: StopSignal, deadline: float, what: str) -> None:
    if stop.wait(_POLL_SECONDS):
        raise RankLost(f"{what}, and the run was stopped")
    if time.monotonic() > deadline:
        raise RankLost(f"{what} in time")


def _use_interface_of(host: str) -> None:
    """Binds gloo and NCCL to the address that other ranks use; by default they resolve the host name."""
    same = "127.0.0.1" if host.startswith("127.") else host
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == same for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
