"""Figures as files: SVG that follows light and dark pages and can be read aloud, and PNG."""

import html
import io
import re

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from orchestrator.reports.palette import style_sheet, with_variables
from orchestrator.reports.run_figure import STYLE


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an SVG element, the same bytes for the same figure; letters are drawn as shapes.

    Args:
      name: what the ids in it begin with, so that several may stand in one page.
      title, description: what the figure is and what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = with_variables(re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", text))
    start = text.index(">") + 1
    words = (
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-description">{html.escape(description)}</desc>'
    )
    role = f' role="img" aria-labelledby="{name}-title" aria-describedby="{name}-description"'
    return text[: start - 1] + role + ">" + words + text[start:]


def as_file(svg: str) -> bytes:
    """The SVG element as a file of its own, with its colours."""
    start = svg.index(">") + 1
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:start]}<style>{style_sheet()}</style>{svg[start:]}'
    ).encode()


def to_png(figure: Figure, *, dpi: int = 160) -> bytes:
    """The figure as a PNG file, light on every page."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
