"""Builds `upcycle/experience/kernels.c` when the project is installed or made into a wheel; hatchling calls it.

Without a C compiler the installation goes on: `upcycle.experience.kernels` then runs its plain versions, and says so.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    """Compiles the library beside its source, from where both kinds of installation take it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before each build; `version` is "editable" or "standard"."""
        package = Path(self.root) / "upcycle" / "experience"
        library = package / "_kernels.so"
        build = runpy.run_path(str(package / "kernel_building.py"))["build_kernels"]  # nothing is importable yet
        problem = build(package / "kernels.c", library)
        if problem:
            print(f"{problem}: replay will run its slower plain kernels", file=sys.stderr)
            return
        if version == "standard":
            build_data["force_include"][str(library)] = f"upcycle_app/upcycle/experience/{library.name}"
            build_data["pure_python"], build_data["infer_tag"] = False, True
