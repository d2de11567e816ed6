"""Secrets in URLs and in text: found, taken out, masked. Pure; nothing here holds one.

What a run is told must not be written down, shown or published: a password belongs into an environment variable or a
file that the configuration names. Whatever echoes a value of somebody's goes through `masked`.
"""

import re
from typing import Any, Final, cast

MASK: Final = "***"
"""What stands in a secret's place."""

_NAME: Final = r"[\w-]*(?:password|passwd|secret|token|signature|credential)[\w-]*|sig|key|[\w-]+[-_]key"
_NAMED: Final = re.compile(_NAME, re.IGNORECASE)
_USER: Final = re.compile(r"""(?<=://)([^\s/:@?#"'<>]*):([^\s"'<>]+)@""")
_PARAMETER: Final = re.compile(rf"""(?<=[?&])({_NAME})=[^\s&"'<>#]*""", re.IGNORECASE)
_WHOLE_USER: Final = re.compile("(?<=://)([^:]*):.*@", re.DOTALL)
_WHOLE_PARAMETER: Final = re.compile(rf"(?<=[?&])({_NAME})=[^&]*", re.IGNORECASE)


def names_a_secret(field: str) -> bool:
    """Whether a field or parameter of this name is likely to hold one."""
    return _NAMED.fullmatch(field.rpartition(".")[2]) is not None


def secret_in(url: str) -> str | None:
    """What of a URL is a secret, in words, without the secret; None if nothing is."""
    _, scheme, rest = url.partition("://")
    if not scheme:
        return None
    if ":" in rest.rpartition("@")[0]:
        return "a password"
    found = _PARAMETER.search(rest)
    return None if found is None else f"the parameter {found[1]}"


def without_secrets(value: Any) -> Any:
    """Plain values (tables, lists, texts) with the secrets of all URLs in them left out."""
    if isinstance(value, dict):
        return {name: without_secrets(inner) for name, inner in cast(dict[Any, Any], value).items()}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in cast(list[Any], value)]
    if not isinstance(value, str) or secret_in(value) is None:
        return value
    scheme, _, rest = value.partition("://")
    user, _, place = rest.rpartition("@")
    name = user.partition(":")[0]
    kept = _PARAMETER.sub("", f"{name}@{place}" if name else place)
    return f"{scheme}://{re.sub(r'(?<=[?&])&+', '', kept).rstrip('?&')}"


def masked(text: str) -> str:
    """Any text, with what is secret in the URLs in it replaced by `MASK`."""
    return _PARAMETER.sub(rf"\1={MASK}", _USER.sub(rf"\1:{MASK}@", text))


def masked_value(value: str) -> str:
    """A value that may be a URL, masked whatever its secrets are made of: in a text a blank or a quote ends them."""
    if secret_in(value) is None:
        return masked(value)
    return _WHOLE_PARAMETER.sub(rf"\1={MASK}", _WHOLE_USER.sub(rf"\1:{MASK}@", value))
