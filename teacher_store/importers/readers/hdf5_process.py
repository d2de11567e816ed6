"""Another process that reads an HDF5 file, kept within limits of memory and time; `hdf5_child` is its program."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import numpy as np

from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array

_PROGRAM: Final = Path(__file__).with_name("hdf5_child.py")
_REFUSED: Final = 3
_MEMORY_BYTES: Final = 2 << 30
_MAX_LINE_BYTES: Final = 4096
SILENT_SECONDS: Final = 120.0
"""How long a block may take: far longer than any honest file needs, on a busy machine as well."""


class Hdf5Process:
    """Reads one file from its beginning. Used as a context; methods raise CorruptDataError naming the file.

    Args:
      layout: what `hdf5_child` is to be told, beside the file and the limits.
      silent_seconds: after so long without a byte the process is ended.
    """

    def __init__(
        self, source: SourceFiles, name: str, layout: Mapping[str, object], *, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        self._where, self._silent_seconds = str(source.locate(name)), silent_seconds
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # Plugins are libraries that a file can name; threads of OpenBLAS would count as memory.
        environment = os.environ | {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
        with source.open(name) as file:
            told = json.dumps({"file": file.fileno(), "memory": _MEMORY_BYTES, **layout})
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_PROGRAM), told],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=(file.fileno(),),
                env=environment,
                bufsize=0,
            )
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)

    def read_line(self) -> bytes:
        """The first line."""
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = np.empty(1, np.uint8)
            self.read_into(byte)
            line += byte.tobytes()
            if len(line) > _MAX_LINE_BYTES:
                raise CorruptDataError(f"{self._where}: its reader says what makes no sense")
        return bytes(line)

    def read(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The next array."""
        out = np.empty(shape, dtype)
        self.read_into(out)
        return out

    def read_into(self, out: Array) -> None:
        """Fills a C-contiguous array with what comes next."""
        view = out.reshape(-1).view(np.uint8).data
        deadline = time.monotonic() + self._silent_seconds
        while view:
            if not self._poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                problem = f"reading it came to nothing in {self._silent_seconds:g} s (damaged on purpose?); refused"
                raise CorruptDataError(f"{self._where}: {problem}")
            count = os.readv(self._out, [view])
            if not count:
                raise CorruptDataError(f"{self._where}: {self._why()}")
            view, deadline = view[count:], time.monotonic() + self._silent_seconds

    def finish(self) -> None:
        """Makes sure that nothing follows, and that all went well."""
        scratch = np.empty(1, np.uint8)
        if self._poll.poll(self._silent_seconds * 1000) and os.readv(self._out, [scratch.data]):
            raise CorruptDataError(f"{self._where}: more rows than it says")
        if self._process.wait(self._silent_seconds):
            raise CorruptDataError(f"{self._where}: {self._why()}")

    def _why(self) -> str:
        """Why the process has ended."""
        code = self._process.wait(self._silent_seconds)
        if code < 0:
            return f"it ended the HDF5 library with {signal.Signals(-code).name}; refused"
        self._errors.seek(0)
        told = self._errors.read().decode(errors="replace").strip()
        return told if code == _REFUSED else f"its reader ended with code {code}: {told[-400:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
