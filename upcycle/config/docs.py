"""The configuration reference, written from the models: `python -m upcycle.config.docs > docs/configuration.md`."""

import json
import sys
from typing import get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from upcycle.config.run import RunConfig
from upcycle.config.section import section_in

_HEAD = """\
# Configuration

A run is described by a preset (TOML) and overrides: `upcycle run PRESET --set section.field=value`, repeatable, the
last one wins. An unknown field, a value out of range or a combination that would deadlock is refused before anything
starts, with the nearest right name. The run's folder keeps the whole configuration, defaults included.

This page is written from the models (`make docs`); a test fails when it is out of date.
"""


def reference() -> str:
    """The page, as Markdown."""
    lines = [_HEAD, "## Run", *_rows(RunConfig)]
    for name, field in RunConfig.model_fields.items():
        section = section_in(field.annotation)
        if section is not None:
            title = f"{name}.NAME" if get_origin(field.annotation) is dict else name
            lines += ["", f"## [{title}]", "", (section.__doc__ or "").strip(), *_rows(section)]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel]) -> list[str]:
    lines = ["", "| field | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if section_in(field.annotation) is None:
            meaning = " ".join((field.description or "").split())
            lines.append(f"| `{name}` | {_default(field)} | {meaning} |")
    return lines


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: object = field.get_default(call_default_factory=True, validated_data={})
    return f"`{json.dumps(value).replace('null', 'none')}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
