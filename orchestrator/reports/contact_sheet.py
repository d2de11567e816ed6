"""Sampled windows as a picture: one row for each, its frames side by side, its numbers beside them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from replay_service.table.contents import ShownWindows
from upcycle.experience.chunks import Array

_DPI: Final = 100
_GAP: Final = 4  # pixels between frames, and between rows
_MIN_SIDE: Final = 64  # pixels: smaller frames are enlarged by a whole factor
_TEXT_PIXELS: Final = 330
_BAND_PIXELS: Final = 24  # a vector is drawn as a band of this height


@dataclass(frozen=True, slots=True, eq=False)
class SheetPart:
    """Windows under one heading."""

    heading: str
    shown: ShownWindows


def contact_sheet(parts: Sequence[SheetPart]) -> bytes:
    """A PNG file of all windows, in order; parts without windows show their heading alone.

    Images are drawn as they are, enlarged by whole factors; vectors as bands of grey, each window scaled to its own
    range.
    """
    rows = list[tuple[str, str, Array | None]]()  # heading, numbers, strip
    for part in parts:
        rows.append((part.heading, "", None))
        windows = part.shown.windows
        for number, frames in enumerate(windows.frames):
            numbers = (
                f"action {windows.action[number]}   return {windows.n_step_return[number]:+.3f}\n"
                f"discount {windows.discount[number]:.3f}   priority {part.shown.priority[number]:.4g}\n"
                f"policy version {part.shown.policy_version[number]}"
            )
            rows.append(("", numbers, _strip(frames)))
    heights = [_BAND_PIXELS if strip is None else max(strip.shape[0], 3 * 14) + _GAP for _, _, strip in rows]
    width = max((strip.shape[1] for _, _, strip in rows if strip is not None), default=0) + _TEXT_PIXELS
    figure = Figure(figsize=(width / _DPI, max(sum(heights), 1) / _DPI), dpi=_DPI)
    bottom = sum(heights)
    for (heading, numbers, strip), height in zip(rows, heights, strict=True):
        bottom -= height
        middle = (bottom + height / 2) / sum(heights)
        if strip is None:
            figure.text(_GAP / width, middle, heading, va="center", fontsize=9, fontweight="bold")
            continue
        figure.figimage(strip, xo=_GAP, yo=bottom + _GAP // 2, cmap="gray", vmin=0, vmax=255, origin="upper")
        figure.text((strip.shape[1] + 3 * _GAP) / width, middle, numbers, va="center", fontsize=7)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _strip(frames: Array) -> Array:
    """Frames, [n, H, W] or [n, D], side by side: uint8 [height, width]."""
    images = frames
    if frames.ndim == 2:
        images = np.repeat(frames[:, None, :], _BAND_PIXELS, axis=1)
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        images = np.round((images - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    factor = max(-(-_MIN_SIDE // images.shape[2]), 1)
    across = np.repeat(images, factor, axis=2)
    enlarged = across if frames.ndim == 2 else np.repeat(across, factor, axis=1)
    padded = np.pad(enlarged, ((0, 0), (0, 0), (0, _GAP)), constant_values=255)
    return np.concatenate(list(padded), axis=1)
