"""The client's side: inserts, draws, scans and write-backs over any number of shards.

It may import `wire`, `table` and `storage`, never `server`.
"""
