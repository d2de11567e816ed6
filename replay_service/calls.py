"""How a shard runs calls: in which threads, how long at the most, and with which status they are refused."""

import json
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Generic, TypeVar, cast

import grpc

from replay_service.failures import ShardStopping
from upcycle.errors import CorruptDataError, UserError

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


@contextmanager
def typed_refusals(context: grpc.ServicerContext) -> Generator[None]:
    """Errors of the request become the statuses that replay.proto promises; others stay defects (UNKNOWN)."""
    try:
        yield
    except CorruptDataError as error:
        context.abort(grpc.StatusCode.DATA_LOSS, str(error))
    except ShardStopping as error:
        context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
    except UserError as error:
        details = {"field": error.field, "value": error.value, "problem": error.problem, "remedy": error.remedy}
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, json.dumps(details, default=str))
    except ValueError as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
