"""Pages in the style of the reports: one HTML file that needs nothing else, for any width and for light and dark."""

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from orchestrator.reports.palette import style_sheet

Tile = tuple[str, str | None, str]
"""What it is, its value (None: left out), and a note."""


def html_page(
    kicker: str, title: str, subtitle: str, identity: str, words: Iterable[str], content: str, *, wide: bool = False
) -> str:
    """A page, for panels if `wide`. All but `content`, which is HTML, is plain text; `words[0]` stands out."""
    style = files("orchestrator.reports").joinpath("report.css").read_text(encoding="utf-8")
    kind = " class=panels" if wide else ""
    title, subtitle = html.escape(title), html.escape(subtitle)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}: {subtitle}</title><style>{style_sheet()}\n{style}</style></head><body><main{kind}>"
        f"<header><p class=kicker>{html.escape(kicker)}</p><h1>{title} "
        f"<small>{subtitle}</small></h1><p class=id>{html.escape(identity)}</p></header>"
        f"<div class=words>{''.join(f'<p>{html.escape(word)}</p>' for word in words)}</div>"
        f"{content}</main></body></html>\n"
    )


def figure(wide: str, narrow: str, caption: str) -> str:
    """A picture in two forms, SVG elements, of which the page shows the one that fits; `caption` is plain text."""
    return (
        f"<figure><div class=wide>{wide}</div><div class=narrow>{narrow}</div>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def tiles(title: str, values: Iterable[Tile]) -> str:
    """Figures to be seen at a glance."""
    shown = (
        f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}"
        f"{f'<small>{html.escape(note)}</small>' if note else ''}</dd></div>"
        for label, value, note in values
        if value is not None
    )
    return f"<section class=tiles><h2>{html.escape(title)}</h2><dl>{''.join(shown)}</dl></section>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, label: str, words: int = 1) -> str:
    """An HTML table; without a head its rows are pairs of a name and a value. All cells are plain text.

    Args:
      words: how many columns, from the left, hold words; the others hold numbers.
      label: what it holds, for those who hear it; a wide table scrolls, with the keyboard too.
    """
    kinds = [" class=words" if number < words else "" for number in range(len(head))]
    header = "".join(f"<th scope=col{kind}>{html.escape(cell)}</th>" for cell, kind in zip(head, kinds, strict=True))
    header = f"<thead><tr>{header}</tr></thead>" if head else ""
    body = (f"<tr>{''.join(_cell(number, words, cell) for number, cell in enumerate(row))}</tr>" for row in rows)
    name = html.escape(label)
    return (
        f'<div class=scroll tabindex=0 role=region aria-label="{name}"><table{"" if head else " class=pairs"} '
        f'aria-label="{name}">{header}<tbody>{"".join(body)}</tbody></table></div>'
    )


def _cell(number: int, words: int, value: Any) -> str:
    text = html.escape(str(value))
    if number == 0:
        return f"<th scope=row>{text}</th>"
    return f"<td class=words>{text}</td>" if number < words else f"<td>{text}</td>"


def section(title: str, content: str) -> str:
    """A part of the page; `content` is HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def folded(title: str, content: str) -> str:
    """A part that opens when asked; `content` is HTML."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"
