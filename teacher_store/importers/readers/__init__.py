"""Safe readers of foreign containers: pickles without code, zip, HDF5, msgpack, TensorFlow bundles.

It may import no other room of the importers.
"""
