"""Presets by name or path, with changes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from upcycle.config.io import load_config
from upcycle.config.run import RunConfig

PRESETS: Final = Path(__file__).resolve().parents[2] / "deploy" / "presets"
RUNS: Final = Path(os.environ.get("UPCYCLE_RUNS", "runs"))


def list_presets() -> list[str]:
    """Names of the presets that ship with Upcycle."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_preset(preset: str | Path, changes: Mapping[str, object] | None = None) -> RunConfig:
    """A checked configuration from a preset.

    Args:
      preset: the name of one that ships with Upcycle, or the path of a TOML file.
      changes: values by field, for example {"learner.batch_size": 64}.
    Raises: UserError naming the file, field or value that is wrong, and the nearest right name.
    """
    overrides = [f"{field}={_to_toml(value)}" for field, value in (changes or {}).items()]
    return load_config(find_preset(str(preset)), overrides)


def find_preset(preset: str) -> Path:
    """The file of a preset: a path, or the name of one that ships with Upcycle."""
    shipped = PRESETS / f"{preset}.toml"
    return shipped if not Path(preset).suffix and shipped.is_file() else Path(preset)


def _to_toml(value: object) -> str:
    """A value as `--set` reads it: TOML, which writes strings, numbers, booleans and lists as JSON does."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
