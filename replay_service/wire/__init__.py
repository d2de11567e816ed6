"""What travels between client and server: messages, their codec, errors and channel options.

It may import `table` for the types that travel, and `storage`.
"""
