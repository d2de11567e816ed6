"""Where a table's transitions lie: arenas, compressed tiers, spill files, shared memory.

It may import no other room of the service.
"""
