"""How a call to a shard can fail: the statuses of replay.proto as exceptions."""

import json
from typing import Final, cast

import grpc

from upcycle.errors import CorruptDataError, UpcycleError, UserError

_TOO_MANY_CALLS: Final = "Concurrent RPC limit exceeded!"  # gRPC's words; a message that is too large has others


class ShardUnavailable(UpcycleError):
    """The shard cannot be reached, or is stopping. Whether it took the call is unknown."""


class ShardSlow(UpcycleError):
    """The shard did not answer within the deadline. Whether it took the call is unknown."""


class ShardStopping(UpcycleError):
    """The shard is stopping and has given up a call half-way; it may be repeated at the next one."""


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
