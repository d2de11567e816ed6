from pathlib import Path

import numpy as np

from benchmarks.peers.frame_log import FrameLog, n_step_returns, stacks
from benchmarks.workload import VIEW, Play, chunks_of, encoded
from upcycle.experience.chunks import decode_chunk
from upcycle.experience.windows import gather_windows


def make_play(rows: int = 200, seed: int = 3) -> Play:
    """A play whose frame t is all t, with episodes of 37 rows that end in their true final observation."""
    rng = np.random.default_rng(seed)
    at = np.arange(rows)
    first, terminated = at % 37 == 0, at % 37 == 36
    reward = np.where(first, 0, rng.integers(-3, 4, rows)).astype(np.float32)
    return Play(
        frame=np.broadcast_to(at.astype(np.uint8)[:, None, None], (rows, 84, 84)).copy(),
        action=rng.integers(6, size=rows, dtype=np.int32),
        reward=reward,
        terminated=terminated,
        truncated=np.zeros(rows, bool),
        first=first,
        num_actions=6,
    )


def test_a_play_comes_back_from_its_folder_and_an_unfinished_one_does_not(tmp_path: Path):
    play = make_play()
    assert Play.load(tmp_path / "play") is None
    play.save(tmp_path / "play")
    again = Play.load(tmp_path / "play")
    assert again is not None
    assert again.num_actions == 6
    assert np.array_equal(again.frame, play.frame)
    assert np.array_equal(again.reward, play.reward)
    (tmp_path / "play" / "play.json").unlink()
    assert Play.load(tmp_path / "play") is None


def test_chunks_hold_the_play_and_the_same_priorities_each_time():
    play = make_play()
    spec = play.spec()
    chunks, again = chunks_of(play, spec), chunks_of(play, spec)
    usable = slice(spec.history, spec.history + spec.steps)
    frames = np.concatenate([chunk.frame[usable, 0, 0] for chunk in chunks])
    assert np.array_equal(frames, np.arange(len(frames), dtype=np.uint8))
    for one, other in zip(chunks, again, strict=True):
        priority = one.columns["priority"]
        assert np.array_equal(priority, other.columns["priority"])
        assert np.isfinite(priority).all()
        assert (priority >= 0).all()


def test_compressed_chunks_hold_the_same_frames():
    play = make_play()
    spec = play.spec()
    for chunk in chunks_of(play, spec):
        plain = decode_chunk(encoded(chunk, spec, compressed=False), spec)
        packed = decode_chunk(encoded(chunk, spec, compressed=True), spec)
        assert np.array_equal(plain.frame, packed.frame)


def test_other_systems_get_the_returns_that_our_windows_have(tmp_path: Path):
    play = make_play()
    play.save(tmp_path)
    log, spec = FrameLog.load(tmp_path), play.spec()
    for number, chunk in enumerate(chunks_of(play, spec)):
        start = np.flatnonzero(chunk.columns["priority"][spec.history : spec.history + spec.steps] > 0)
        columns = {name: column[None] for name, column in chunk.columns.items()}
        windows = gather_windows(spec, chunk.frame[None], columns, np.zeros_like(start), start, VIEW)
        rows = number * spec.steps + start
        assert np.allclose(log.n_step_return[rows], windows.n_step_return)
        assert np.allclose(log.discount[rows], windows.discount)


def test_a_return_stops_at_the_end_of_its_episode():
    reward, terminated = np.array([1.0, 5.0, 1.0, 1.0]), np.array([False, True, False, False])
    value, discount = n_step_returns(reward, terminated)
    assert np.allclose(value[:2], [1 + 0.99, 1])
    assert np.allclose(discount[:2], 0)


def test_stacks_end_at_their_row_whichever_axis_holds_them():
    frame = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 84, 84), np.uint8)
    for channels_last in (False, True):
        found = stacks(frame, channels_last=channels_last)
        stack = found[:, 0, 0, :] if channels_last else found[:, :, 0, 0]
        assert np.array_equal(stack, [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]])
        assert found.flags.c_contiguous
