"""One module for each foreign format.

It may import `layers`, `readers`, the records and the importers' own types.
"""
