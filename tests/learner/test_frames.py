"""Environment frames from the shards' counters, over restarts."""

from learner.frames import FrameCounter


def test_a_restarted_shard_loses_no_frames() -> None:
    frames = FrameCounter(frame_skip=4)
    frames.observe({0: 100, 1: 50})
    frames.observe({0: 130, 1: 50})
    assert frames.total == 4 * 180
    frames.observe({0: 10})  # shard 0 restarted, shard 1 cannot be reached
    frames.observe({0: 10, 1: 60})
    assert frames.total == 4 * (180 + 10 + 10)
