"""Many photos in one picture, with titles and captions: one layout for all such pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure

from signs.data.images import Image
from signs.reporting import style
from signs.reporting.style import DARK, DPI, UNIT

HEAD, LINE = 24, 14  # heights of the title and of a line of text, in units
PAPER, FRAME = 255, 240  # grey levels around the tiles, and around a photo in its tile


class Line(NamedTuple):
    """A line of a caption."""

    text: str
    colour: str = DARK
    weight: str = "normal"


class Tile(NamedTuple):
    """A photo (RGB or grey, uint8, of any size) and the lines below it."""

    photo: Image
    caption: Sequence[Line] = ()


class Row(NamedTuple):
    """Tiles side by side, and the text to the left of them."""

    tiles: Sequence[Tile]
    title: str = ""


def plot_grid(
    rows: Sequence[Row], path: Path, size: tuple[int, int], gap: int, head: Sequence[str] = ("", "")
) -> None:
    """Save rows of photos, which need not be equally long; without rows, the heading alone.

    Width and height of a tile and the gap between tiles are in units; photos keep their
    proportions. The heading is a title and an explanation.
    """
    letters = max((len(line) for row in rows for line in row.title.split("\n")), default=0)
    lines = max((len(tile.caption) for row in rows for tile in row.tiles), default=0)
    left = gap + (round(style.LETTER * letters) + gap if letters else 0)
    top = gap + HEAD * bool(head[0]) + LINE * bool(head[1])
    step = np.array(size) + gap + [0, lines * LINE + gap // 2 * bool(lines)]
    width, height = step * [max((len(row.tiles) for row in rows), default=0), len(rows)]
    width = max(left + width, round(1.2 * style.LETTER * max(map(len, head))))
    with style.saved(path, width, top + height, photos=True) as figure:
        style.head(figure, *head)
        bottom = figure.canvas.get_width_height()[1] - pixels(size[1])
        for number, row in enumerate(rows):
            y = top + number * step[1]
            _write(figure, (left - gap, y + size[1] / 2), Line(row.title), "right")
            for place, tile in enumerate(row.tiles):
                x = left + place * step[0]
                photo = fit(tile.photo, pixels(size[0]), pixels(size[1]))
                figure.figimage(photo, pixels(x), bottom - pixels(y), origin="upper")
                for below, line in enumerate(tile.caption):
                    _write(figure, (x, y + size[1] + LINE * (below + 0.7)), line, "left")


def rows_of(tiles: Sequence[Tile], columns: int) -> list[Row]:
    """Rows without titles, all but the last of this length."""
    return [Row(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]


def fit(photo: Image, width: int, height: int) -> Image:
    """A photo as RGB of this many pixels, its proportions kept, with grey where it leaves room."""
    scale = min(width / photo.shape[1], height / photo.shape[0])
    across, down = (max(1, round(length * scale)) for length in photo.shape[1::-1])
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(photo, (across, down), interpolation=method)
    result = np.full((height, width, 3), FRAME, np.uint8)
    top, left = (height - down) // 2, (width - across) // 2
    result[top : top + down, left : left + across] = resized.reshape(down, across, -1)
    return result


def strip(photos: Sequence[Image], side: int, gap: int) -> Image:
    """Photos side by side as one, for a tile that shows several; lengths in units."""
    side, gap = pixels(side), pixels(gap)
    between = np.full((side, gap, 3), PAPER, np.uint8)
    return np.hstack([part for p in photos for part in (between, fit(p, side, side))][1:])


def pixels(units: float) -> int:
    """A length in units of the layout as pixels of the picture."""
    return round(units * DPI / UNIT)


def _write(figure: Figure, place: tuple[float, float], line: Line, align: str) -> None:
    """Write a line at a place in units from the upper left corner."""
    width, height = figure.get_size_inches() * UNIT
    text = figure.text(place[0] / width, 1 - place[1] / height, line.text, ha=align, va="center")
    text.set(fontsize=7.5, color=line.colour, weight=line.weight)
