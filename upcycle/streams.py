"""Standard streams whose reader may go away: a pipe into `head`, a terminal that is closed, a full disk.

What a command does, and its exit code, never depend on whether somebody reads what it says.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar, cast

from upcycle.errors import UserError

_T = TypeVar("_T")

_GONE: Final = (errno.EPIPE, errno.EIO, errno.ENXIO)
"""A pipe without a reader, and a terminal that has hung up."""


class _Leavable:
    """A stream that says nothing more once its reader has gone; all else is as of `stream`.

    Args:
      best_effort: any other error of the system is passed over as well, and the next line tried again.
    """

    def __init__(self, stream: TextIO, *, best_effort: bool) -> None:
        self._stream, self._best_effort = stream, best_effort

    def write(self, text: str, /) -> int:
        return self._attempt(lambda: self._stream.write(text), len(text))

    def writelines(self, lines: Any, /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._attempt(self._stream.flush, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return action()
        except OSError as error:
            if error.errno in _GONE:
                _discard(self._stream)
            elif not self._best_effort:
                problem = f"cannot be written ({error.strerror or error})"
                raise UserError("standard output", self._stream.name, problem, "make room there") from error
            return otherwise


@contextmanager
def leavable_streams() -> Generator[None]:
    """Lets the readers of standard output and standard error go away; a stream that was closed from the start is empty.

    Results that find the disk full are a UserError all the same; progress and warnings are not.
    """
    _occupy_standard_descriptors()
    own = cast(tuple[TextIO | None, TextIO | None], (sys.stdout, sys.stderr))
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        # Of a closed descriptor Python makes None, and prints what was for standard error to standard output.
        output, errors = own[0] or nothing, own[1] or nothing
        sys.stdout = cast(TextIO, _Leavable(output, best_effort=False))
        sys.stderr = cast(TextIO, _Leavable(errors, best_effort=True))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], own)
            for stream in (output, errors):
                try:
                    stream.flush()
                except OSError:  # at the interpreter's own last flush it would end in exit code 120
                    _discard(stream)


def _discard(stream: TextIO) -> None:
    """Puts nothing in the place of a reader that has gone: also for what is still buffered, and for child processes."""
    with suppress(OSError, io.UnsupportedOperation):
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, stream.fileno())
        finally:
            os.close(nothing)


def _occupy_standard_descriptors() -> None:
    """Else the first files to be opened would get their numbers, and what libraries write to 2 would end up in them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
