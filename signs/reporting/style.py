"""What all pictures have in common: sizes, colours, headings and how they are saved."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from signs.data.images import Image

UNIT = 100  # lengths are in hundredths of an inch, about a pixel on a plain screen
DPI = 150  # sharp on dense screens, and still a small file
BLUE, RED, GREY, DARK, FAINT = "#1d5fa8", "#c0341d", "#8b949e", "#1b1f24", "#e6e9ec"
MIDDLE, LIGHT, QUIET = "#5a92cd", "#b3cfec", "#5c6570"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": DARK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": FAINT,
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "text.color": DARK,
    "text.parse_math": False,  # a class may be named "$5 toll, $9 for trucks"
    "xtick.color": DARK,
    "ytick.color": DARK,
}
LETTER = 6.2  # width of a letter at the standard size, in units


def figure(width: float, height: float, layout: Any = None) -> Figure:
    """An empty figure of this size in units."""
    return Figure(figsize=(width / UNIT, height / UNIT), dpi=DPI, layout=layout)


def head(figure: Figure, title: str, explanation: str = "") -> None:
    """Write a title and a quieter line below it into the upper left corner."""
    height = figure.get_figheight() * UNIT
    figure.text(0.012, 1 - 8 / height, title, va="top", fontsize=10, weight="bold")
    figure.text(0.012, 1 - 27 / height, explanation, va="top", fontsize=7.5, color=QUIET)


def save(figure: Figure, path: Path) -> None:
    """Save a figure as PNG or JPEG, by the suffix; the same figure always gives the same bytes."""
    write(rendered(figure), path)


def rendered(figure: Figure) -> Image:
    """The pixels of a figure: RGB, uint8 (H, W, 3)."""
    raw = io.BytesIO()
    figure.savefig(raw, format="rgba")
    width, height = figure.canvas.get_width_height()
    rgba = np.frombuffer(raw.getvalue(), np.uint8).reshape(height, width, 4)
    return rgba[:, :, :3].copy()


def write(picture: Image, path: Path, png_filter: int = cv2.IMWRITE_PNG_FILTER_NONE) -> None:
    """Write RGB pixels as PNG or JPEG, by the suffix.

    Args:
        picture: uint8 (H, W, 3).
        path: the file.
        png_filter: flat colours compress best unfiltered, a quarter smaller than what
            Matplotlib writes; photos need a filter.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 85]
    if path.suffix == ".png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, png_filter]
    path.write_bytes(cv2.imencode(path.suffix, picture[:, :, ::-1], options)[1].tobytes())


def short(text: str) -> str:
    """At most 42 letters of a text."""
    return text if len(text) <= 42 else text[:41] + "…"
