"""One script per system, run in an environment of its own; see `benchmarks.peers.frame_log`."""
