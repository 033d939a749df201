"""Pictures of many photos at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from signs.data.images import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
CAPTION_WIDTH = 260  # pixels, for about 40 letters at 8 points
GAP = 4


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image]]], path: Path, title: str, tile: int = 56
) -> None:
    """Save a picture (.jpg or .png) with one captioned row of photos after another.

    Args:
        rows: (caption, RGB or grey photos, uint8, of any size); a long row is cut.
        path: where to write it; its folder must exist.
        title: printed above.
        tile: pixels a side that each photo gets.
    """
    # Not above: each worker process of a stage imports what the stage imports.
    from matplotlib.figure import Figure

    columns = max((len(photos) for _, photos in rows), default=1)
    columns = max(1, min(columns, (1400 - CAPTION_WIDTH) // (tile + GAP)))
    step = tile + GAP
    canvas = np.full((max(1, len(rows)) * step, columns * step, 3), 255, np.uint8)
    for y, (_, photos) in enumerate(rows):
        for x, photo in enumerate(photos[:columns]):
            place = canvas[y * step : y * step + tile, x * step : x * step + tile]
            resized = cv2.resize(photo, (tile, tile), interpolation=cv2.INTER_AREA)
            place[:] = resized.reshape(tile, tile, -1)
    height, width = canvas.shape[:2]
    header = 36
    figure = Figure(figsize=((width + CAPTION_WIDTH) / DPI, (height + header) / DPI), dpi=DPI)
    total_width, total_height = width + CAPTION_WIDTH, height + header
    axes = figure.add_axes(
        (CAPTION_WIDTH / total_width, 0, width / total_width, height / total_height)
    )
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for y, (caption, _) in enumerate(rows):
        text = axes.text(-8, y * step + tile / 2, caption, ha="right", va="center", fontsize=8)
        text.set_parse_math(False)  # a "$" in a class name is no formula
    figure.text(0.01, 1 - 12 / total_height, title, fontsize=10, weight="bold", va="top")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Save a figure as JPEG or PNG; the same figure always gives the same bytes."""
    if path.suffix == ".jpg":
        figure.savefig(path, dpi=DPI, pil_kwargs={"quality": 85})
    else:
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
