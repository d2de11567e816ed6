"""Where processes run: Ray, local or joined, the embedded Redis, and the placement of processes on nodes.

It may import `processes`, which it starts.
"""
