"""How a call to a shard can fail: the statuses of replay.proto as exceptions, and the other way round."""

from __future__ import annotations  # gRPC's generic types exist for type checkers alone

import json
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar, cast

import grpc

from upcycle.errors import CorruptDataError, UpcycleError, UserError

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")

_RETRY_PAUSES: Final = (0.02, 0.1)  # seconds; a shard that is away for longer counts as lost, others take over
_TOO_MANY_CALLS: Final = "Concurrent RPC limit exceeded!"  # gRPC's words; a message that is too large has others


class ShardUnavailable(UpcycleError):
    """The shard cannot be reached, or is stopping. Whether it took the call is unknown."""


class ShardSlow(UpcycleError):
    """The shard did not answer within the deadline. Whether it took the call is unknown."""


class ShardStopping(UpcycleError):
    """The shard is stopping and has given up a call half-way; it may be repeated at the next one."""


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


def translated(error: BaseException, address: str) -> Exception:
    """The error that a status stands for, see replay.proto."""
    if not isinstance(error, grpc.Call):
        return ShardUnavailable(f"replay shard at {address}: {error!r}")
    code, details = error.code(), error.details() or ""
    match code:
        case grpc.StatusCode.DATA_LOSS:
            return CorruptDataError(f"replay shard at {address}: {details}")
        case grpc.StatusCode.FAILED_PRECONDITION:
            return UserError(**cast(dict[str, str], json.loads(details)))
        case grpc.StatusCode.RESOURCE_EXHAUSTED if details == _TOO_MANY_CALLS:
            return ShardUnavailable(f"replay shard at {address}: {details}")
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.UNIMPLEMENTED:
            return ValueError(f"replay shard at {address}: {details}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return ShardSlow(f"replay shard at {address}: {details}")
        case grpc.StatusCode.UNKNOWN if details.startswith("Exception calling application"):
            return UpcycleError(f"replay shard at {address} failed: {details}")
        case _:  # UNAVAILABLE, and what a dying peer's connection turns into
            return ShardUnavailable(f"replay shard at {address}: {details}")


def repeat_call(
    call: grpc.UnaryUnaryMultiCallable[_Request, _Reply],
    request: _Request,
    timeout_seconds: float,
    *,
    pauses: Sequence[float] = _RETRY_PAUSES,
    address: str,
) -> _Reply:
    """Calls, and again after each of `pauses` (seconds) while the shard cannot be reached and there is time.

    Args:
      pauses: none for what is not safe to repeat.
    Raises: what `translated` makes of the last failure.
    """
    deadline = time.monotonic() + timeout_seconds
    for pause in (*pauses, None):
        try:
            return call(request, timeout=max(deadline - time.monotonic(), 0.001))
        except grpc.RpcError as error:
            failure = translated(error, address)
            away = isinstance(failure, ShardUnavailable)
            if not away or pause is None or time.monotonic() + pause >= deadline:
                raise failure from error
            time.sleep(pause)
        except ValueError as error:  # gRPC's way to say that this channel has been closed
            raise ShardUnavailable(f"replay shard at {address}: {error}") from error
    raise AssertionError("unreachable")
