"""Presets and overrides in, a checked `RunConfig` out."""

import copy
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_origin

import tomlkit
from pydantic import BaseModel, ValidationError

from upcycle.config.run import RunConfig
from upcycle.config.section import section_in
from upcycle.errors import UserError
from upcycle.url_secrets import MASK, masked, names_a_secret, without_secrets


def load_config(preset: Path, overrides: Sequence[str] = (), *, stored: bool = False) -> RunConfig:
    """Reads a TOML preset and applies `section.field=value` overrides, the later ones winning.

    Args:
      stored: the file is what `dump_config` wrote for a run, maybe an early one that let passwords into URLs; they are
        left out.
    Raises: UserError naming the file, the field or the value that is wrong, and the nearest right name.
    """
    if not preset.is_file():
        raise UserError(
            "preset", str(preset), "there is no such file", f"known presets: {', '.join(_known_presets()) or 'none'}"
        )
    try:
        values = tomllib.loads(preset.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError("preset", str(preset), f"is not TOML ({error})", "correct that line") from error
    return parse_config(with_overrides(without_secrets(values) if stored else values, overrides))


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A tree of plain values with `section.field=value` overrides applied. Raises UserError for one of another form."""
    result = copy.deepcopy(dict(values))
    for override in overrides:
        _apply(result, override)
    return result


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Checks a tree of plain values. Raises UserError for the first thing wrong with it."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explain(error) from error


def dump_config(config: RunConfig) -> str:
    """The whole configuration as TOML, defaults included; `load_config` reads it back to an equal value."""
    return tomlkit.dumps(_without_none(config.model_dump(mode="json")))


def scrub_config(text: str) -> str:
    """What `dump_config` wrote, without the passwords that early runs let into URLs; unchanged if there are none."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return masked(text)
    kept = without_secrets(values)
    return text if kept == values else tomlkit.dumps(kept)


def _known_presets() -> list[str]:
    folder = Path(__file__).resolve().parents[2] / "deploy" / "presets"
    return [f"deploy/presets/{path.name}" for path in sorted(folder.glob("*.toml"))]


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names):
        raise UserError(
            "--set", override, "is not of the form section.field=value", "write for example --set learner.batch_size=64"
        )
    section = values
    for name in names[:-1]:
        inner = section.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UserError("--set", override, f"{name} is a value, not a section", "name a field of a section")
        section = cast(dict[str, Any], inner)
    section[names[-1]] = _parse_value(text.strip(), is_list=_takes_list(names))


def _takes_list(path: Sequence[str]) -> bool:
    """Whether a field has several values, which `--set` takes with commas between them."""
    field, section = None, RunConfig
    for name in path:
        if section is not None and name in section.model_fields:
            field = section.model_fields[name]
            section = section_in(field.annotation)
        elif field is None or get_origin(field.annotation) is not dict:  # a dict's key is what the user calls an entry
            return False
    return field is not None and get_origin(field.annotation) is tuple


def _parse_value(text: str, *, is_list: bool) -> Any:
    """A TOML value where the text is one, else the text itself: `--set env.task=Pong-v5` needs no quotes."""
    if is_list and not text.startswith("["):
        return [name.strip() for name in text.split(",")]
    if text == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError) -> UserError:
    first = error.errors()[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    field = ".".join(str(part) for part in first["loc"]) or "configuration"
    value = MASK if names_a_secret(field) else first["input"]
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, _all_fields(RunConfig), n=1, cutoff=0.5)
        known = ", ".join(_fields_beside(path))
        return UserError(
            field,
            value,
            "there is no such field",
            f"did you mean {near[0]}?" if near else f"known here: {known}",
        )
    if first["type"] == "value_error":
        return UserError(field, "as given", first["msg"].removeprefix("Value error, "), "change one of these fields")
    return UserError(field, value, first["msg"][:1].lower() + first["msg"][1:], "give a value of that kind")


def _fields_beside(path: list[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for name in path[:-1]:
        if name not in model.model_fields:  # what the user calls a loss term
            continue
        section = section_in(model.model_fields[name].annotation)
        assert section is not None, f"{name} has fields"
        model = section
    return list(model.model_fields)


def _all_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if (section := section_in(field.annotation)) is not None:
            names += _all_fields(section, f"{prefix}{name}.")
    return names


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {name: _without_none(inner) for name, inner in items if inner is not None}
    return value
