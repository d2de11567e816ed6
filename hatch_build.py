"""Builds `upcycle/kernels.c` when the project is installed or made into a wheel; hatchling calls it.

Without a C compiler the installation goes on: `upcycle.kernels` then runs its plain versions, and says so.
"""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FLAGS = ("-O3", "-Wall", "-shared", "-fPIC")


class KernelsHook(BuildHookInterface):
    """Compiles the library beside its source, from where both kinds of installation take it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before each build; `version` is "editable" or "standard"."""
        source = Path(self.root) / "upcycle" / "kernels.c"
        library = source.with_name("_kernels.so")
        if not _compile(source, library):
            return
        if version == "standard":
            build_data["force_include"][str(library)] = f"upcycle_app/upcycle/{library.name}"
            build_data["pure_python"], build_data["infer_tag"] = False, True


def _compile(source: Path, library: Path) -> bool:
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform != "linux":
        print("no C compiler: replay will run its slower plain kernels", file=sys.stderr)
        return False
    fresh = library.with_suffix(".new")
    crc = f"-DSOURCE_CRC={zlib.crc32(source.read_bytes())}u"
    try:
        subprocess.run([*compiler.split(), *_FLAGS, crc, "-o", str(fresh), str(source)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the C compiler failed ({error}): replay will run its slower plain kernels", file=sys.stderr)
        fresh.unlink(missing_ok=True)
        return False
    fresh.replace(library)  # whoever has mapped the old one keeps it
    return True
