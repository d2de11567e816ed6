"""How the verbs print results: values whole and as they are, whatever they hold and wherever they go.

A pipe or a file gets lines as long as the values are. On a terminal a cell that is too narrow goes on in the next line;
nothing is cut, and nothing in a value is taken for markup or for a control sequence.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 100_000


def result_console() -> Console:
    """Standard output; in a pipe it is as wide as what is printed."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | None = None, numbers: bool = False
) -> None:
    """Prints rows under headers; with `numbers` all columns but the first are set to the right."""
    heading = None if title is None else literal(title, "bold")
    table = Table(header_style="bold", title=heading, title_justify="left", title_style="bold")
    for place, header in enumerate(headers):
        table.add_column(literal(header), overflow="fold", justify="right" if numbers and place else "left")
    for row in rows:
        table.add_row(*(literal(cell) if isinstance(cell, str) else cell for cell in row))
    result_console().print(table)


def print_values(title: str, values: Mapping[str, str]) -> None:
    """Prints a title and below it a line for each value; lines of a value stand below one another."""
    width = max(map(len, values)) + 2
    print(_printable(title))
    for name, value in values.items():
        for number, line in enumerate(value.split("\n")):
            print(f"  {'' if number else name:<{width}}{_printable(line)}")


def print_json(value: object) -> None:
    """Prints one JSON value for programs."""
    print(json.dumps(value))


def literal(value: str, style: str = "") -> Text:
    """Text that is shown as it is."""
    return Text("\n".join(map(_printable, value.split("\n"))), style=style)


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
