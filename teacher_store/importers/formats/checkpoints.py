"""Which of several checkpoints of one agent is meant."""

import re
from collections.abc import Callable, Iterable, Mapping

from teacher_store.importers.imported import Request
from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import CorruptDataError, UserError


def recognises_any(find: Callable[[SourceFiles], Iterable[str]]) -> Callable[[SourceFiles], bool]:
    """Whether `find` finds a file in a source; a source that cannot be looked at has none."""

    def recognises(source: SourceFiles) -> bool:
        try:
            return any(True for _ in find(source))
        except (UserError, CorruptDataError, OSError):
            return False

    return recognises


def choose(source: SourceFiles, numbers: Mapping[str, int | None], request: Request, *, last: str | None = None) -> str:
    """The file of the checkpoint that is asked for, else of the only one, else of the newest.

    Args:
      source: whose files they are.
      numbers: of each checkpoint, by its file; None where a name tells no number. At least one.
      request: asks for one, or for none.
      last: the file of `numbers` that came after all that have a number, if there is one.
    Raises: UserError if there is no such checkpoint, or the names do not tell which is the newest.
    """
    known = {number for number in numbers.values() if number is not None}
    if request.checkpoint is not None:
        found = [name for name, number in numbers.items() if number == request.checkpoint]
        if not found:
            there_are = ", ".join(str(number) for number in sorted(known)[-20:]) or "none with a number"
            raise UserError("--checkpoint", request.checkpoint, f"is not in {source.path}", f"there are {there_are}")
    elif last is not None or len(numbers) == 1:
        return last or next(iter(numbers))
    else:
        found = [name for name, number in numbers.items() if known and number == max(known)]
    if len(found) != 1:
        several = ", ".join(sorted(found or numbers))[:400]
        raise UserError("PATH", str(source.path), f"holds several agents: {several}", "give the path of one of them")
    return found[0]


def numbered(source: SourceFiles, names: Iterable[str], pattern: re.Pattern[str]) -> dict[str, int | None]:
    """The number in each file's name, where `pattern` finds one in its first group; for `choose`."""
    numbers = dict[str, int | None]()
    for name in names:
        match = pattern.search(name or source.path.name)
        numbers[name] = None if match is None else int(match[1])
    return numbers


def choose_last(source: SourceFiles, numbers: Mapping[str, int | None], request: Request) -> str:
    """As `choose`, of agents whose last file has no number, as those before it have."""
    finished = [name for name, number in numbers.items() if number is None]
    return choose(source, numbers, request, last=finished[0] if len(finished) == 1 else None)
