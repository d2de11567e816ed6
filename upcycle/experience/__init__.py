"""Experience as data: chunks, windows, compression kernels and the experience log.

It may import `config`.
"""
