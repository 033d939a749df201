"""What all pictures have in common: sizes, colours, headings and how they are saved."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

UNIT = 100  # lengths are in hundredths of an inch, about a pixel on a plain screen
DPI = 150  # sharp on dense screens, and still a small file
BLUE, RED, GREY, DARK, FAINT = "#1d5fa8", "#c0341d", "#8b949e", "#1b1f24", "#e6e9ec"
MIDDLE, LIGHT, QUIET = "#5a92cd", "#b3cfec", "#5c6570"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    **dict.fromkeys(["axes.spines.right", "axes.spines.top"], False),
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": FAINT,
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "text.parse_math": False,  # a class may be named "$5 toll, $9 for trucks"
    **dict.fromkeys(["axes.labelcolor", "text.color", "xtick.color", "ytick.color"], DARK),
}
LETTER = 6.2  # width of a letter at the standard size, in units


@contextmanager
def saved(
    path: Path, width: float, height: float, layout: Any = None, photos: bool = False
) -> Iterator[Figure]:
    """Give an empty figure of this size in units, and save what is drawn on it.

    Written as PNG or JPEG, by the suffix; the same figure always gives the same bytes. Flat
    colours compress best unfiltered, a quarter smaller than what Matplotlib writes; `photos` need
    a filter.
    """
    raw = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / UNIT, height / UNIT), dpi=DPI, layout=layout)
        yield figure
        figure.savefig(raw, format="rgba")
    columns, rows = figure.canvas.get_width_height()
    rgba = np.frombuffer(raw.getvalue(), np.uint8).reshape(rows, columns, 4)
    options = [cv2.IMWRITE_JPEG_QUALITY, 85]
    if path.suffix == ".png":
        filters = cv2.IMWRITE_PNG_FILTER_PAETH if photos else cv2.IMWRITE_PNG_FILTER_NONE
        options = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, filters]
    path.write_bytes(cv2.imencode(path.suffix, rgba[:, :, 2::-1], options)[1].tobytes())


def head(figure: Figure, title: str, explanation: str = "") -> None:
    """Write a title and a quieter line below it into the upper left corner."""
    height = figure.get_figheight() * UNIT
    figure.text(0.012, 1 - 8 / height, title, va="top", fontsize=10, weight="bold")
    figure.text(0.012, 1 - 27 / height, explanation, va="top", fontsize=7.5, color=QUIET)


def short(text: str) -> str:
    """At most 42 letters of a text."""
    return text if len(text) <= 42 else text[:41] + "…"
