"""The generated stubs with their types, which the generator leaves out; and the way to one on the same host."""

from __future__ import annotations  # gRPC's generic types exist for type checkers alone

from typing import Final, Protocol, cast

import grpc
from grpc_health.v1 import health_pb2

from replay_service.wire import replay_pb2, replay_pb2_grpc
from replay_service.wire.channel_options import CHANNEL_OPTIONS, COMMON_OPTIONS

_LOCAL_SECONDS: Final = 1.0  # a socket of this host answers at once or not at all


class Stub(Protocol):
    """The generated stub, with its types."""

    Insert: grpc.UnaryUnaryMultiCallable[replay_pb2.InsertRequest, replay_pb2.InsertReply]
    Reserve: grpc.UnaryUnaryMultiCallable[replay_pb2.ReserveRequest, replay_pb2.ReserveReply]
    Admit: grpc.UnaryUnaryMultiCallable[replay_pb2.AdmitRequest, replay_pb2.AdmitReply]
    Sample: grpc.UnaryUnaryMultiCallable[replay_pb2.SampleRequest, replay_pb2.SampleReply]
    Attach: grpc.UnaryUnaryMultiCallable[replay_pb2.AttachRequest, replay_pb2.AttachReply]
    UpdatePriorities: grpc.UnaryUnaryMultiCallable[replay_pb2.UpdatePrioritiesRequest, replay_pb2.UpdatePrioritiesReply]
    Annotate: grpc.UnaryUnaryMultiCallable[replay_pb2.AnnotateRequest, replay_pb2.AnnotateReply]
    Scan: grpc.UnaryUnaryMultiCallable[replay_pb2.ScanRequest, replay_pb2.ScanReply]
    Stats: grpc.UnaryUnaryMultiCallable[replay_pb2.StatsRequest, replay_pb2.StatsReply]
    Seed: grpc.UnaryUnaryMultiCallable[replay_pb2.SeedRequest, replay_pb2.SeedReply]
    Drain: grpc.UnaryUnaryMultiCallable[replay_pb2.DrainRequest, replay_pb2.DrainReply]
    Inspect: grpc.UnaryUnaryMultiCallable[replay_pb2.InspectRequest, replay_pb2.InspectReply]


class HealthStub(Protocol):
    """The stub of gRPC's health service, with its types."""

    Check: grpc.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


def open_local(address: str) -> tuple[grpc.Channel, Stub] | None:
    """A channel to a Unix socket; None if nobody of that name listens on this host."""
    channel = grpc.insecure_channel(address, options=[*COMMON_OPTIONS, *CHANNEL_OPTIONS])
    try:
        grpc.channel_ready_future(channel).result(timeout=_LOCAL_SECONDS)
    except grpc.FutureTimeoutError:
        channel.close()
        return None
    return channel, cast(Stub, replay_pb2_grpc.ReplayStub(channel))
