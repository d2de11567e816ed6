"""One shard as a gRPC server: calls, admission and locks around pure tables.

It may import `wire`, `table` and `storage`, never `client`.
"""
