"""How a call to a shard can fail: the statuses of replay.proto as exceptions, and the other way round."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import grpc

from upcycle.errors import CorruptDataError, UpcycleError, UserError


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
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.UNIMPLEMENTED:
            return ValueError(f"replay shard at {address}: {details}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return ShardSlow(f"replay shard at {address}: {details}")
        case grpc.StatusCode.UNKNOWN if details.startswith("Exception calling application"):
            return UpcycleError(f"replay shard at {address} failed: {details}")
        case _:  # UNAVAILABLE, and what a dying peer's connection turns into
            return ShardUnavailable(f"replay shard at {address}: {details}")
