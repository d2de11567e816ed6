"""Replay shards: tables, sum tree, rate limiter, gRPC server and the sharded client. NumPy and gRPC only."""
