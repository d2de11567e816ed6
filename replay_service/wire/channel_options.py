"""gRPC options of both sides, each for a measured reason."""

from typing import Final

MAX_MESSAGE_BYTES: Final = 64 << 20

MAX_BULK_BYTES: Final = 8 << 20
"""Larger inserts and samples are sent as several calls: memory stays bounded, and no call holds a shard for long."""

Options = tuple[tuple[str, int], ...]

COMMON_OPTIONS: Final[Options] = (
    # The default refuses messages above 4 MB.
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A proxy leads out of the cluster, never to a shard; gRPC would ask the one of the environment for any address but
    # those that `no_proxy` spells out, and a call would wait for it without a word.
    ("grpc.enable_http_proxy", 0),
    # A peer that vanished without a word is noticed after 5 s; without the ping timeout it takes a minute.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)

CHANNEL_OPTIONS: Final[Options] = (
    # After an outage of 30 s the default comes back 17 s late.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A new channel makes a new connection instead of inheriting the back-off of an old one to the same address.
    ("grpc.use_local_subchannel_pool", 1),
)

SERVER_OPTIONS: Final[Options] = (
    # Two servers on one port would share its connections instead of one of them failing.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Of a message that no thread reads yet, a connection takes in this much and no more; with the probe it would be all
    # of it, from each of as many clients as there are. Inserts take the same processor time; a quarter of this makes
    # them wait a fifth longer for the next part.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
)
