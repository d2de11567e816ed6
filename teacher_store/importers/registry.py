"""All formats, and which of them a source is in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from teacher_store.importers.formats import (
    cleanrl_jax,
    cleanrl_torch,
    dopamine_jax,
    dopamine_replay,
    dopamine_tf,
    gogianu,
    minari,
    stable_baselines3,
)
from teacher_store.importers.imported import Importer
from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import UserError

IMPORTERS: Final[tuple[Importer, ...]] = (
    dopamine_jax.IMPORTER,
    dopamine_tf.IMPORTER,
    dopamine_replay.IMPORTER,
    cleanrl_jax.IMPORTER,
    cleanrl_torch.IMPORTER,
    gogianu.IMPORTER,
    stable_baselines3.IMPORTER,
    minari.IMPORTER,
)
"""In the order of help and errors; at most one that reads agents recognises a source, and one that reads buffers."""


@dataclass(frozen=True, slots=True)
class Found:
    """Who reads a source.

    Attributes:
      agent: reads its weights, if it has any.
      experience: reads its buffer, if it has one; often the same importer.
    """

    agent: Importer | None
    experience: Importer | None


def find_importers(source: SourceFiles, name: str = "auto", importers: Sequence[Importer] = IMPORTERS) -> Found:
    """The importers that recognise the source's content, or the one of that name.

    Raises: UserError if there is no such format, none or several recognise it, or the named one does not.
    """
    known = {importer.name: importer for importer in importers}
    if name != "auto" and name not in known:
        raise UserError("--format", name, "is no format", f"choose one of auto, {', '.join(known)}")
    found = [importer for importer in importers if name in ("auto", importer.name) and importer.recognises(source)]
    if not found and name != "auto":
        problem = f"{source.path} holds no {known[name].title}"
        raise UserError("--format", name, problem, "use --format auto, or check the path")
    if not found:
        titles = "; ".join(importer.title for importer in importers)
        raise UserError("PATH", str(source.path), "holds nothing that can be imported", f"known are: {titles}")
    agents = [importer for importer in found if importer.read_agent is not None]
    buffers = [importer for importer in found if importer.read_experience is not None]
    if len(agents) > 1 or len(buffers) > 1:
        names = ", ".join(importer.name for importer in found)
        raise UserError("PATH", str(source.path), f"could be any of {names}", "say which with --format")
    return Found(agents[0] if agents else None, buffers[0] if buffers else None)
