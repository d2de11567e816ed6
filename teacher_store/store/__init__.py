"""The content-addressed store: folders and buckets, publishing, leases, garbage collection, bundles.

It may import `records`.
"""
