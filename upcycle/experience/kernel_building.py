"""Compiles `kernels.c`: when the project is installed (hatch_build.py), or where a process finds the library missing.

The second is how a Ray job gets it: what git ignores does not travel with a job's working directory, and its nodes may
be of another kind. Imports nothing but the standard library, since hatch_build.py runs this file before anything else
is installed.
"""

import os
import shutil
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

_FLAGS = ("-O3", "-Wall", "-shared", "-fPIC")
_SECONDS = 120.0


def build_kernels(source: Path, library: Path) -> str:
    """Compiles `source` to `library`, which is there whole or not at all, however many processes do so at once.

    Returns: why that cannot be done here; empty if it has been done.
    """
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        return "there is no C compiler" if compiler is None else f"not for {sys.platform}"
    fresh = library.with_name(f"{library.stem}.{os.getpid()}.new")
    try:
        crc = f"-DSOURCE_CRC={zlib.crc32(source.read_bytes())}u"
        command = [*compiler.split(), *_FLAGS, crc, "-o", str(fresh), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
        if done.returncode:
            return f"the C compiler failed: {' '.join(done.stderr.split())[-300:] or done.returncode}"
        fresh.replace(library)  # whoever has mapped the old one keeps it
    except (OSError, subprocess.SubprocessError) as error:
        return f"the C compiler failed: {error}"
    finally:
        with suppress(OSError):  # of a read-only file system, also where there is nothing to remove
            fresh.unlink()
    return ""
