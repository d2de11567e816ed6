"""How a shard runs calls: in which threads, and how long at the most."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar, cast

import grpc

_MAX_WAIT_SECONDS: Final = 5.0  # the longest a call is held back, whatever it asks for

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class InThreads(Generic[_Request, _Reply]):
    """A method of a servicer that gRPC calls in these threads; it reads a request as late as when a thread is free."""

    def __init__(self, method: Callable[[_Request, grpc.ServicerContext], _Reply], threads: ThreadPoolExecutor) -> None:
        self._method = method
        self.experimental_thread_pool = threads  # gRPC's name

    def __call__(self, request: _Request, context: grpc.ServicerContext) -> _Reply:
        """Answers one call."""
        return self._method(request, context)


def bounded_wait(wait_seconds: float, context: grpc.ServicerContext) -> float:
    """Less than the caller's own deadline, so that the answer still reaches it."""
    remaining = cast(float | None, context.time_remaining())  # None without a deadline, whatever the stubs say
    return max(0.0, min(wait_seconds, _MAX_WAIT_SECONDS, 0.8 * remaining if remaining is not None else wait_seconds))
