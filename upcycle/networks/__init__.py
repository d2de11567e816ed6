"""Q networks and their files.

It may import `experience` and `config`.
"""
