"""All formats, and which of them a source is in."""

from collections.abc import Sequence
from typing import Final

from teacher_store.importers.dopamine_replay import DOPAMINE_REPLAY
from teacher_store.importers.imported import Importer
from teacher_store.importers.source import Source
from upcycle.errors import UserError

IMPORTERS: Final[tuple[Importer, ...]] = (DOPAMINE_REPLAY,)
"""In the order of help and errors; at most one recognises a source, whatever its files are called."""


def find_importer(source: Source, name: str = "auto", importers: Sequence[Importer] = IMPORTERS) -> Importer:
    """The importer of that name, or the one that recognises the source's content.

    Raises: UserError if there is no such format, none or several recognise it, or the named one does not.
    """
    known = {importer.name: importer for importer in importers}
    if name != "auto" and name not in known:
        raise UserError("--format", name, "is no format", f"choose one of auto, {', '.join(known)}")
    if name != "auto":
        if not known[name].recognises(source):
            problem = f"{source.path} holds no {known[name].title}"
            raise UserError("--format", name, problem, "use --format auto, or check the path")
        return known[name]
    found = [importer for importer in importers if importer.recognises(source)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(importer.name for importer in found)
        raise UserError("PATH", str(source.path), f"could be any of {names}", "say which with --format")
    titles = "; ".join(importer.title for importer in importers)
    raise UserError("PATH", str(source.path), "holds nothing that can be imported", f"known are: {titles}")
