"""What a learner gets out of an imported buffer, through the log that was written of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teacher_store.importers.imported import ImportedExperience
from teacher_store.importers.writing import write_experience
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array, ChunkSpec, decode_chunk
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.experience.windows import StackFill, View, gather_windows, valid_starts

ENV = EnvConfig()


@dataclass(frozen=True, eq=False)
class Transition:
    """One step of one episode; `following` is None where nothing may be bootstrapped."""

    observation: Array
    action: int
    reward: float
    following: Array | None


def spec_of(experience: ImportedExperience, *, num_actions: int = 4, steps: int = 8, history: int = 3) -> ChunkSpec:
    return ChunkSpec(
        experience.frame_shape, experience.frame_dtype, num_actions, steps=steps, history=history, lookahead=2
    )


def logged_transitions(directory: Path, *, stack: int = 4, stack_fill: StackFill = "zeros") -> list[Transition]:
    """All 1-step transitions of a log that a learner could draw, in their order."""
    reader = ExperienceLogReader.open(directory)
    view = View(n_step=1, stack=stack, gamma=1.0, clip_rewards=False, stack_fill=stack_fill)
    found = list[Transition]()
    for data in reader.iterate():
        chunk, spec = decode_chunk(data, reader.spec), reader.spec
        missing = spec.rows - chunk.num_rows
        frame = np.pad(chunk.frame, [(0, missing)] + [(0, 0)] * len(spec.frame_shape))[None]
        columns = {name: np.pad(column, (0, missing))[None] for name, column in chunk.columns.items()}
        offsets = np.flatnonzero(valid_starts(spec, columns, np.array([chunk.num_rows]), 1)[0])
        windows = gather_windows(spec, frame, columns, np.zeros_like(offsets), offsets, view)
        for frames, action, reward, discount in zip(
            windows.frames, windows.action, windows.n_step_return, windows.discount, strict=True
        ):
            found.append(Transition(frames[:-1], int(action), float(reward), frames[1:] if discount else None))
    return found


def imported_transitions(
    experience: ImportedExperience, directory: Path, *, stack: int = 4, stack_fill: StackFill = "zeros"
) -> list[Transition]:
    """The same, of a log that is written now."""
    write_experience(experience, directory, spec_of(experience, history=max(stack - 1, 1)), ENV)
    return logged_transitions(directory, stack=stack, stack_fill=stack_fill)


def assert_same_transitions(found: list[Transition], wanted: list[Transition]) -> None:
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got.observation, want.observation)
        assert (got.action, got.reward) == (want.action, want.reward)
        assert (got.following is None) == (want.following is None)
        if got.following is not None and want.following is not None:
            np.testing.assert_array_equal(got.following, want.following)
