"""Copies values from the device to the host without waiting for the device."""

from collections import deque
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from upcycle.experience.chunks import Array

_MAX_PENDING: Final = 16


class Readback:
    """Delivers tensors to the host once the device has computed them, in order.

    On a CPU they are delivered at once. On CUDA each is copied to pinned memory behind the work that computes it, and
    delivered by a later call; a call waits for the oldest only if more than 16 are pending.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_host = device.type == "cpu"
        self._pending: deque[tuple[torch.cuda.Event, Tensor, Callable[[Array], None]]] = deque()

    def push(self, tensor: Tensor, deliver: Callable[[Array], None]) -> None:
        """Calls `deliver` with the values of `tensor`, now or from a later call."""
        if self._on_host:
            deliver(tensor.numpy())
            return
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._pending.append((copied, host, deliver))
        self.poll()

    def poll(self) -> None:
        """Delivers what has arrived."""
        while self._pending and (len(self._pending) > _MAX_PENDING or self._pending[0][0].query()):
            self._deliver_oldest()

    def flush(self) -> None:
        """Waits for all pending tensors and delivers them."""
        while self._pending:
            self._deliver_oldest()

    def clear(self) -> None:
        """Discards all pending tensors."""
        self._pending.clear()

    def _deliver_oldest(self) -> None:
        copied, host, deliver = self._pending.popleft()
        copied.synchronize()
        deliver(host.numpy())
