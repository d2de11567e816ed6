"""Small experience logs, and what is in them."""

from pathlib import Path

import numpy as np

from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.log_segment import list_segments

SPEC = ChunkSpec(frame_shape=(4, 4), frame_dtype="uint8", num_actions=3, steps=8, history=1, lookahead=1)
ENV = EnvConfig(frame_size=42)


def chunk(number: int) -> bytes:
    """Stands in for an encoded chunk: the log does not look inside. Half of it compresses."""
    return np.random.default_rng(number).bytes(30 + number % 7) + bytes(30)


def write(directory: Path, numbers: range, *, segment_bytes: int = 250, seal: bool = True) -> None:
    """Appends chunk(i) with i transitions for every i; without `seal`, like a writer that was killed."""
    writer = ExperienceLogWriter.open(directory, SPEC, ENV, segment_bytes=segment_bytes)
    for number in numbers:
        assert writer.append(chunk(number), number) == number
    writer.close()
    if not seal:
        last = list_segments(directory)[-1][1]
        last.with_suffix(".index").unlink()


def contents(directory: Path) -> list[bytes]:
    reader = ExperienceLogReader.open(directory)
    reader.verify()
    return list(reader.iterate())
