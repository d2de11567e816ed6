"""Teachers: load one and ask it for action values; list, import and publish them."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from upcycle.experience.chunks import Array
from upcycle.runs.runtime import OnGames, OnProgress

if TYPE_CHECKING:  # with PyTorch, which listing teachers does without
    from teacher_store import teacher as frozen

__all__ = ["Teacher", "TeacherRecord", "import_teacher", "list_teachers", "load_teacher", "publish_teacher"]


class Teacher:
    """A frozen policy that maps NumPy observations to NumPy values. `load_teacher` makes it.

    Attributes:
      record: everything that its store knows about it: score, protocol, network, descent.
    """

    def __init__(self, teacher: "frozen.Teacher") -> None:
        self._teacher = teacher
        self.record = teacher.record

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(stack, H, W) of an image, oldest frame first, or (1, D) of a vector."""
        return (self.record.frame_stack, *self.record.frame_shape)

    @property
    def observation_dtype(self) -> str:
        """NumPy's name of their type: "uint8" for images, "float32" for vectors."""
        return "uint8" if len(self.record.frame_shape) > 1 else "float32"

    @property
    def num_actions(self) -> int:
        """Size of its action set."""
        return self.record.num_actions

    def values(self, observations: Array) -> Array:
        """Action values, or log-probabilities of a teacher that gives probabilities, float32 [B, A].

        Args:
          observations: [B, *observation_shape] of `observation_dtype`.
        Raises: ValueError if shape or dtype differ.
        """
        import torch

        if observations.dtype != self.observation_dtype:
            raise ValueError(f"observations are {observations.dtype}: this teacher sees {self.observation_dtype}")
        return self._teacher.values(torch.tensor(observations)).cpu().numpy()

    def __repr__(self) -> str:
        score = "not scored" if self.record.score is None else f"score {self.record.score.mean_return:.1f}"
        return f"<Teacher {self.record.id}: {self.record.env.task}, {self.record.describe_policy()}, {score}>"


def open_store(store: str | Path | None) -> TeacherStore:
    """A store by path or URL; None opens the default one (the environment variable UPCYCLE_TEACHERS names another)."""
    return TeacherStore.default() if store is None else TeacherStore(store)


def list_teachers(*, store: str | Path | None = None) -> list[TeacherRecord]:
    """All teachers of a store, those that ship with Upcycle included.

    Args:
      store: path or URL; by default the one that the command line uses.
    """
    return open_store(store).list()


def load_teacher(name: str, *, store: str | Path | None = None, device: str = "cpu") -> Teacher:
    """Loads a teacher with verified weights.

    Args:
      name: name or id, for example "pong-dqn-42", which ships with Upcycle.
      store: path or URL; by default the one that the command line uses.
      device: where it computes, as torch names it.
    Raises: UserError if there is no such teacher, or it left a buffer without a policy; CorruptDataError if its weights
      are damaged.
    """
    from teacher_store import teacher as frozen

    opened = open_store(store)
    return Teacher(frozen.load_teacher(opened.get(name), opened, device))


def import_teacher(
    path: str | Path,
    *,
    name: str,
    task: str | None = None,
    format: str = "auto",
    replay: str | Path | None = None,
    overrides: Sequence[str] = (),
    licence: str = "NOASSERTION",
    episodes: int = 30,
    store: str | Path | None = None,
    on_progress: OnProgress | None = None,
    on_games: OnGames | None = None,
) -> TeacherRecord:
    """Imports an agent, a buffer or both from another framework's files, or a bundle. Nothing is unpickled.

    Args:
      path: file or folder.
      name: what to call the teacher.
      task: its environment, where the files do not say it.
      format: name of an importer, or "auto".
      replay: where its buffer is, if it is elsewhere.
      overrides: `env.field=value`, against the protocol of the format.
      licence: of weights and buffer, an SPDX identifier.
      episodes: whole games to play for its score; 0 leaves it unscored.
      store: path or URL; by default the one that the command line uses.
      on_progress: called with rows of the buffer written, and to write.
      on_games: called while it plays.
    Raises: UserError or CorruptDataError; the store is then as it was before.
    """
    from orchestrator.teachers import importing

    options = importing.ImportOptions(
        path=Path(path),
        name=name,
        format=format,
        task=task,
        replay=None if replay is None else Path(replay),
        overrides=tuple(overrides),
        licence=licence,
        episodes=episodes,
    )
    return importing.import_teacher(open_store(store), options, on_progress=on_progress, on_games=on_games)


def publish_teacher(
    run: str | PathLike[str],
    *,
    name: str,
    policy_version: int | None = None,
    with_experience: bool = True,
    with_training_state: bool = True,
    episodes: int | None = None,
    licence: str = "Apache-2.0",
    store: str | Path | None = None,
    on_games: OnGames | None = None,
) -> TeacherRecord:
    """Makes a run's policy a teacher, with its score, experience and descent.

    Args:
      run: the run, or its folder; it may still go on.
      name: what to call the teacher.
      policy_version: one that the run keeps; by default the one that was evaluated best.
      with_experience: share the run's experience log.
      with_training_state: take the newest checkpoint's networks and optimizer along.
      episodes: whole games to play if the run has not evaluated this version at its end.
      licence: of the weights, an SPDX identifier.
      store: path or URL; by default the one that the command line uses.
      on_games: called while it plays.
    Raises: UserError if the run has no such weights, or the store has this teacher.
    """
    from orchestrator.teachers.publishing import publish_from_run

    return publish_from_run(
        Path(run),
        open_store(store),
        name=name,
        policy_version=policy_version,
        with_experience=with_experience,
        with_training_state=with_training_state,
        episodes=episodes,
        licence=licence,
        on_games=on_games,
    )
