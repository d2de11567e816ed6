"""Colours of reports and figures, for light and dark pages.

A figure is drawn in the light colours; in its SVG each becomes a CSS variable with that colour as its fallback, so that
one picture follows the reader's scheme, in a page and alone. Text has a contrast of 4.5 or more on the surface.
"""

import re
from typing import Final

_COLORS: Final[dict[str, tuple[str, str]]] = {
    # name: (light, dark)
    "surface": ("#ffffff", "#1a2233"),
    "page": ("#f8fafc", "#111827"),
    "ink": ("#1f2937", "#e5e9f0"),
    "axis": ("#475569", "#b6c2d4"),
    "soft": ("#5b6777", "#a3afc0"),
    "line": ("#e2e8f0", "#344056"),
    "edge": ("#cbd5e1", "#4a5870"),
    "student": ("#1d4ed8", "#93b4ff"),
    "teacher": ("#b45309", "#f5b556"),
    "control": ("#4b5563", "#b9c2d0"),
    "random": ("#6b7280", "#9ca8ba"),
    "scratch-2": ("#a16207", "#e3c04f"),
    "scratch-3": ("#7c2d12", "#f0a287"),
    "tuned-1": ("#0f766e", "#5fd3c4"),
    "tuned-2": ("#4d7c0f", "#a8d65c"),
    "tuned-3": ("#0e7490", "#67cbe6"),
    "student-2": ("#7c3aed", "#c4a6ff"),
    "student-3": ("#be185d", "#ff9cc4"),
    "control-2": ("#78716c", "#c7bfb8"),
}

LIGHT: Final = {name: light for name, (light, _) in _COLORS.items()}
DARK: Final = {name: dark for name, (_, dark) in _COLORS.items()}
_NAMES: Final = {light: name for name, light in LIGHT.items()}


def style_sheet() -> str:
    """The variables, and their dark values where the reader prefers those."""
    light = "".join(f"--{name}:{color};" for name, color in LIGHT.items())
    dark = "".join(f"--{name}:{color};" for name, color in DARK.items())
    return (
        f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "@media print{:root{color-scheme:light;" + light + "}}"
    )


def with_variables(svg: str) -> str:
    """An SVG in which every colour of ours is a variable, with itself as the fallback."""

    def variable(found: re.Match[str]) -> str:
        return f"var(--{_NAMES[found[0]]}, {found[0]})" if found[0] in _NAMES else found[0]

    return re.sub(r"#[0-9a-f]{6}\b", variable, svg)


def contrast(first: str, second: str) -> float:
    """Of two colours, 1 to 21, as of WCAG 2."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
