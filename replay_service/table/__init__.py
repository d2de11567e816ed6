"""Pure replay tables: storage behind a sampler and a rate limiter, without clock, lock or socket.

It may import `storage`.
"""
