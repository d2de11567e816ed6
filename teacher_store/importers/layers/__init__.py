"""Foreign layers and weights, matched to our networks.

It may import `readers`.
"""
