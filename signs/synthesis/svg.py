"""Vector templates of traffic signs: signs/synthesis/templates/<label set>/<class id>.svg.

A class has several templates where the road has several designs: 27.svg, 27b.svg.
"""

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import resvg_py

from signs.data.images import Image
from signs.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
SIDE = 128

# float32, but OpenCV's type hints do not say so.
Floats = npt.NDArray[Any]


class TemplateError(UserError):
    """A template cannot be used; the text says which and why."""


def label_set(dataset: str) -> str:
    """The label set to synthesize for a data set: its own if that has templates, else GTSRB's."""
    return dataset if (TEMPLATES / dataset).is_dir() else "gtsrb"


def other_label_sets(labels: str) -> list[str]:
    """All label sets that have templates, except this one."""
    return sorted({path.name for path in TEMPLATES.iterdir() if path.is_dir()} - {labels})


@cache
def templates_of(labels: str) -> dict[int, tuple[Path, ...]]:
    """Class id → template files of a label set, in numeric order.

    One that is not ours is given by the absolute path of its folder.
    """
    found: dict[int, tuple[Path, ...]] = {}
    for path in sorted((TEMPLATES / labels).glob("[0-9]*.svg")):
        class_id = int(path.stem.rstrip("bcdefgh"))
        found[class_id] = (*found.get(class_id, ()), path)
    return dict(sorted(found.items()))


def rasterize(path: Path, side: int = SIDE) -> Image:
    """Rasterize an SVG file: BGRA, uint8 (side, side, 4).

    One that is missing, no SVG, not square, or empty raises `TemplateError`.
    """
    try:
        svg = path.read_text(encoding="utf-8")
        png = resvg_py.svg_to_bytes(svg, width=side, height=side, skip_system_fonts=True)
    except (OSError, ValueError) as error:
        raise TemplateError(f"{path} cannot be rasterized: {error}") from error
    image = cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != (side, side, 4):
        raise TemplateError(f"{path} must be square")
    if not image[:, :, 3].any():
        raise TemplateError(f"{path} is empty")
    return image.astype(np.uint8, copy=False)


@cache
def pyramid(template: Path) -> list[Floats]:
    """A template at full side, half, quarter and eighth; alpha in 0..1, colours multiplied by it.

    It fills the square, as a sign fills the frame that was cut around it: triangles, too, which
    are an eighth wider than high, are about square in GTSRB's frames.
    """
    tile: Floats = rasterize(template).astype(np.float32)
    left, top, width, height = cv2.boundingRect((tile[:, :, 3] > 0).astype(np.uint8))
    tile = tile[top : top + height, left : left + width]
    tile[:, :, 3] /= 255
    tile[:, :, :3] *= tile[:, :, 3:]
    tile = cv2.resize(tile, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    levels: list[Floats] = [tile]
    for _ in range(3):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return levels


@cache
def asymmetric_templates(labels: str) -> list[Path]:
    """The templates of a label set that look different upside down."""
    templates = [path for paths in templates_of(labels).values() for path in paths]
    small = {path: pyramid(path)[-2] for path in templates}
    # Mean grey levels: 0.2 between a slash and the same turned round, 4 and more for other signs.
    return [path for path, tile in small.items() if np.abs(tile - np.rot90(tile, 2)).mean() > 1]
