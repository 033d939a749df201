"""Photos of traffic signs, made from vector drawings.

Each class of a label set has a drawing, signs/templates/<label set>/<class id>.svg, or
several where the road has several: 27.svg, 27b.svg. A photo is one of them seen askew, in
some light, before some background, by a camera that blurs and adds noise. The photos are
unrealistic on purpose: a network that has seen more than reality holds reads real signs.
Nothing is ever flipped, for that changes the meaning of eight classes.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import resvg_py

from signs.corruptions import streak
from signs.errors import UserError
from signs.images import Image
from signs.params import Range, Synthesize

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_SIDE = 128
NO_SIGN = 1000
NOISE = 2**20

# A colour's grey part, and a turn about the grey axis, as matrices for BGR.
GREY = np.full((3, 3), 1 / 3)
CROSS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
REST = np.eye(3) - GREY
SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
FRAME = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)

# float32 throughout, but OpenCV's type hints do not say so.
Floats = npt.NDArray[Any]
Random = np.random.Generator


class TemplateError(UserError):
    """A drawing of signs/templates cannot be used; the text says which and why."""


def label_set(dataset: str) -> str:
    """The label set that is drawn for a photo set: its own if that has drawings, else GTSRB's."""
    return dataset if (TEMPLATES / dataset).is_dir() else "gtsrb"


def other_label_sets(labels: str) -> list[str]:
    """All label sets that have drawings, but this one."""
    found = {path.name for path in TEMPLATES.iterdir() if path.is_dir()}
    return sorted(found - {labels})


@cache
def drawings(labels: str) -> dict[int, tuple[Path, ...]]:
    """The files with the drawings of each class of a label set, in numeric order."""
    found: dict[int, tuple[Path, ...]] = {}
    for path in sorted((TEMPLATES / labels).glob("*.svg")):
        class_id = int(path.stem.rstrip("bcdefgh"))
        found[class_id] = (*found.get(class_id, ()), path)
    return dict(sorted(found.items()))


def rasterize(path: Path, side: int = TEMPLATE_SIDE) -> Image:
    """Draw an SVG file: BGRA, uint8 (side, side, 4).

    Raises:
        TemplateError: the file is missing, no SVG, not square, or draws nothing.
    """
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=path.read_text(encoding="utf-8"),
            width=side,
            height=side,
            skip_system_fonts=True,
        )
    except (OSError, ValueError) as error:
        raise TemplateError(f"{path} cannot be drawn: {error}") from error
    image = cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != (side, side, 4):
        raise TemplateError(f"{path} must be square")
    if not image[:, :, 3].any():
        raise TemplateError(f"{path} draws nothing")
    return image.astype(np.uint8, copy=False)


@cache
def _pyramid(drawing: Path) -> list[Floats]:
    """A drawing at full side, half, quarter and eighth; alpha in 0..1, colours multiplied by it.

    It fills the square, as a sign fills the frame that was cut around it: triangles, too, which
    are an eighth wider than high, are about square in GTSRB's frames.
    """
    tile: Floats = rasterize(drawing).astype(np.float32)
    left, top, width, height = cv2.boundingRect((tile[:, :, 3] > 0).astype(np.uint8))
    tile = tile[top : top + height, left : left + width]
    tile[:, :, 3] /= 255
    tile[:, :, :3] *= tile[:, :, 3:]
    tile = cv2.resize(tile, (TEMPLATE_SIDE, TEMPLATE_SIDE), interpolation=cv2.INTER_AREA)
    levels: list[Floats] = [tile]
    for _ in range(3):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return levels


def render(settings: Synthesize, labels: str, class_id: int, index: int) -> bytes:
    """One photo of a sign as a JPEG file, the same for the same arguments.

    Class `NO_SIGN` is a background, with an edge of some sign perhaps.
    """
    rng = np.random.default_rng([settings.seed, class_id, index])
    photo = _photograph(settings, labels, class_id, rng)
    quality = round(_uniform(rng, settings.quality))
    return cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _uniform(rng: Random, limits: Range) -> float:
    return float(rng.uniform(limits.low, limits.high))


def _photograph(settings: Synthesize, labels: str, class_id: int, rng: Random) -> Image:
    # As many small frames as large ones on a logarithmic scale: a car sees a sign grow.
    side = round(settings.size.low * (settings.size.high / settings.size.low) ** rng.random())
    light = _level(settings, rng)
    scene = _background(settings, rng, labels, side, light)
    if class_id != NO_SIGN:
        drawing = _one_of(drawings(labels)[class_id], rng)
        scene = _paint(settings, rng, scene, drawing, _corners(settings, rng, side), light)
    if rng.random() < settings.occlusion:
        scene = _occlude(rng, scene, light)
    scene = cv2.multiply(scene, _as_colour(_shade(settings, rng, side)))
    # Stray light in the lens lifts the blacks.
    haze = settings.haze * rng.random() * min(light, 255)
    return _expose(settings, rng, scene + haze, light)


def _level(settings: Synthesize, rng: Random) -> float:
    """Grey level of white paint, uniform on a logarithmic scale: dark signs are common."""
    low, high = settings.brightness.low, settings.brightness.high
    return float(low * (high / low) ** rng.random())


def _corners(settings: Synthesize, rng: Random, side: int) -> Floats:
    """Where the drawing's four corners come to lie, float32 (4, 2) in pixels."""
    half = side * (0.5 - _uniform(rng, settings.margin))
    either = rng.uniform(-1, 1, 13)
    square = SQUARE * (half * (1 + settings.aspect * either[:2]))
    square += either[2:10].reshape(4, 2) * (settings.perspective * half)
    angle = math.radians(settings.rotation) * either[10]
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    corners: Floats = square @ turn + side * (0.5 + settings.shift * either[11:])
    return corners.astype(np.float32)


def _one_of(paths: Sequence[Path], rng: Random) -> Path:
    return paths[int(rng.integers(len(paths)))]


def _paint(
    settings: Synthesize, rng: Random, scene: Floats, drawing: Path, corners: Floats, light: float
) -> Floats:
    """Put a sign, in faded or strong colours and unevenly worn, into the scene."""
    side, levels = len(scene), _pyramid(drawing)
    # The smallest level that is not smaller than the sign, which fills about 0.8 of the frame.
    tile = next((t for t in reversed(levels) if len(t) >= 0.8 * side), levels[0])
    matrix = cv2.getPerspectiveTransform(FRAME * len(tile), corners)
    layer = cv2.warpPerspective(tile, matrix, (side, side), flags=cv2.INTER_LINEAR)

    fading = settings.fade * rng.random() ** 2
    # Neither the sun's colour nor the camera's white balance is neutral.
    light_of = (1 + 0.1 * rng.uniform(-1, 1, (3, 1))) * ((1 - fading) * light / 255)
    angle = math.radians(settings.hue) * rng.uniform(-1, 1)
    colours = np.empty((3, 4))
    colours[:, :3] = _hue_and_saturation(angle, _uniform(rng, settings.saturation)) * light_of
    colours[:, 3] = fading * 0.8 * light
    left = 1 - settings.wear * rng.random() * _clouds(rng, side, (4, 12))
    paint = cv2.multiply(cv2.transform(layer, colours), _as_colour(left))
    behind = cv2.multiply(scene, _as_colour(1 - cv2.extractChannel(layer, 3)))
    return cv2.add(behind, paint)


def _hue_and_saturation(angle: float, saturation: float) -> npt.NDArray[np.float64]:
    """A matrix for BGR colours that leaves greys alone: turn about the grey axis, and stretch."""
    matrix: npt.NDArray[np.float64] = (
        GREY + (saturation * math.cos(angle)) * REST + (saturation * math.sin(angle)) * CROSS
    )
    return matrix


def _as_colour(grey: Floats) -> Floats:
    """The same value in three channels: OpenCV has no broadcasting, NumPy's is slow on so few."""
    colour: Floats = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    return colour


def _clouds(rng: Random, side: int, grids: tuple[int, ...]) -> Floats:
    """Smooth noise of several grain sizes in 0..1, float32 (side, side)."""
    clouds = np.zeros((1, 1), np.float32)
    for grid in grids:
        coarser = cv2.resize(clouds, (grid, grid), interpolation=cv2.INTER_LINEAR)
        clouds = coarser + rng.random((grid, grid), np.float32)
    cv2.normalize(clouds, clouds, 0, 1, cv2.NORM_MINMAX)
    return cv2.resize(clouds, (side, side), interpolation=cv2.INTER_LINEAR)


def _background(settings: Synthesize, rng: Random, labels: str, side: int, light: float) -> Floats:
    """Sky, leaves, walls and what else may stand behind a sign, float32 (side, side, 3)."""
    # Seldom lit as the sign is: it may stand in the shade before a bright sky.
    own_light = light if rng.random() < 0.5 else _level(settings, rng)
    first, second, third, *others = own_light * _colours(rng, 6)
    if rng.random() < 0.8:
        grids = ((2,), (3, 7), (2, 9, 17), (8, 16), (16, 31))[rng.integers(5)]
        contrast = float(rng.uniform(1, 6))
        mask = (_clouds(rng, side, grids) - 0.5) * contrast + 0.5
        mask = _limited(mask)
        scene: Floats = cv2.transform(mask, np.column_stack([second - first, first]))
    else:
        scene = np.empty((side, side, 3), np.float32)
        scene[:] = first
    for colour in others[: rng.integers(4)]:
        start, end = rng.integers(-side // 4, side * 5 // 4, (2, 2)).tolist()
        if rng.random() < 0.5:
            width = int(rng.integers(1, max(2, side // 6)))
            cv2.line(scene, start, end, colour.tolist(), width, cv2.LINE_AA)
        else:
            cv2.rectangle(scene, start, end, colour.tolist(), -1)
    if rng.random() < 0.5:
        half, middle = side * rng.uniform(0.02, 0.06), side * rng.uniform(0.45, 0.55)
        post = (int(middle - half), side // 2), (int(middle + half), side)
        cv2.rectangle(scene, *post, third.tolist(), -1)
    if rng.random() < 0.4:
        scene = _neighbour(settings, rng, labels, scene, light)
    return scene


def _limited(values: Floats) -> Floats:
    """The same array, 0 to 1; `numpy.clip` takes four times as long on so few."""
    np.maximum(values, 0, out=values)
    np.minimum(values, 1, out=values)
    return values


def _occlude(rng: Random, scene: Floats, light: float) -> Floats:
    """A branch, a wire, a sticker or leaves before the sign; most of it stays visible."""
    side = len(scene)
    colour = (light * _colours(rng, 1)[0]).tolist()
    start, end = rng.integers(0, side, (2, 2)).tolist()
    kind = rng.integers(3)
    if kind == 0:
        cv2.line(scene, start, end, colour, int(rng.integers(1, max(2, side // 12))), cv2.LINE_AA)
    elif kind == 1:
        extent = rng.uniform(0.08, 0.3, 2) * side
        corner = (np.array(start) + extent).astype(int).tolist()
        cv2.rectangle(scene, start, corner, colour, -1)
    else:
        # Only what grows in from outside: leaves in the middle would hide the pictogram.
        from_rim = np.abs(_axis(side))
        leaves = _clouds(rng, side, (5, 9)) + np.maximum.outer(from_rim, from_rim) > 1.45
        scene[leaves] = colour
    return scene


def _neighbour(
    settings: Synthesize, rng: Random, labels: str, scene: Floats, light: float
) -> Floats:
    """Another sign, of which the frame shows an edge: posts often carry two or three."""
    side = len(scene)
    others = [path for paths in drawings(labels).values() for path in paths]
    along, across = rng.uniform(-0.3, 0.3), rng.uniform(0.85, 1.0)
    offset = ((along, across), (along, -across), (across, along), (-across, along))
    corners = _corners(settings, rng, side)
    corners += side * np.array(offset[rng.integers(4)], np.float32)
    return _paint(settings, rng, scene, _one_of(others, rng), corners, light)


def _colours(rng: Random, count: int) -> Floats:
    """Colours as streets have them, mostly near grey, in shares of white, float32 (count, 3)."""
    grey = rng.random((count, 1))
    tint = rng.uniform(-1, 1, (count, 3)) * rng.random((count, 1)) ** 2
    return (grey + 0.5 * tint).clip(0, 1).astype(np.float32)


def _shade(settings: Synthesize, rng: Random, side: int) -> Floats:
    """Share of the light that arrives, soft or with a shadow's edge, float32 (side, side)."""
    angle, steepness = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1) ** -4
    axis = _axis(side)
    edge: Floats = np.add.outer(
        axis * (math.sin(angle) * steepness) + rng.random(), axis * (math.cos(angle) * steepness)
    )
    return 1 - settings.shade * rng.random() * _limited(edge)


@cache
def _axis(side: int) -> Floats:
    return np.linspace(-1, 1, side, dtype=np.float32)


def _expose(settings: Synthesize, rng: Random, photo: Floats, light: float) -> Image:
    """Blur, lose what is too bright and add noise, in the order of lens, sensor and wires."""
    # Relative to the side, else small frames would be wiped out and large ones untouched.
    # Squared, because most photos are sharp.
    low, high = settings.blur.low, settings.blur.high
    strength = (low + (high - low) * rng.random() ** 2) * len(photo)
    if rng.random() < 0.5:
        photo = cv2.GaussianBlur(photo, (0, 0), max(strength, 0.05))
    else:
        photo = cv2.filter2D(photo, -1, streak(strength * 3, rng))
    start = int(rng.integers(NOISE - photo.size))
    noise = _noise()[start : start + photo.size].reshape(photo.shape)
    strength = _uniform(rng, settings.noise) * min(light, 255)
    # To 0..255 in whole numbers, as OpenCV does it.
    return cv2.addWeighted(  # type: ignore[return-value]
        np.clip(photo, 0, 255), 1, noise, strength, 0, dtype=cv2.CV_8U
    )


@cache
def _noise() -> Floats:
    """Normal noise to cut pieces from: drawing it anew for each photo takes a tenth of the time."""
    return np.random.default_rng(0).standard_normal(NOISE, np.float32)
