"""Synthetic photos of traffic signs, rendered from vector templates.

A photo is one template of its class seen askew, in some light, before some background, by a
camera that blurs and adds noise. The photos vary more than real ones on purpose: a network that
was trained on them reads real signs. Nothing is ever flipped, because that changes the meaning of
eight classes. Scenes and layers are float32 arrays (side, side, channels), colours are BGR.
"""

import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from signs.data import noise
from signs.data.blur import motion_kernel
from signs.data.images import Image
from signs.params import Range, Synthesize
from signs.synthesis.svg import Floats, asymmetric_templates, pyramid, templates_of

NO_SIGN = 1000
UPSIDE_DOWN = 2000

SQUARE = (-1, -1), (1, -1), (1, 1), (-1, 1)
FRAME = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
# Of clouds behind a sign, in cells a side: from soft light to leaves.
GRAINS = ((2,), (3, 7), (2, 9, 17), (8, 16), (16, 31))

T = TypeVar("T")


class Dice(random.Random):
    """The random numbers of one photo; for single numbers much faster than NumPy's generators."""

    def within(self, limits: Range) -> float:
        """A value of the range."""
        return self.uniform(limits.low, limits.high)

    def logarithmic(self, limits: Range) -> float:
        """A value of the range, as often in each octave of it."""
        return float(limits.low * (limits.high / limits.low) ** self.random())

    def either_way(self, most: float) -> float:
        """`-most` to `most`."""
        return self.uniform(-most, most)

    def below(self, count: int) -> int:
        """0 to `count - 1`."""
        return int(count * self.random())

    def one_of(self, choices: Sequence[T]) -> T:
        """Any of them."""
        return choices[self.below(len(choices))]


def render(settings: Synthesize, labels: str, class_id: int, index: int) -> bytes:
    """One photo of a sign as a JPEG file, the same for the same arguments.

    Class `NO_SIGN` is a background, with an edge of some sign perhaps. Each class from
    `UPSIDE_DOWN` on shows any signs, turned by 180 degrees.
    """
    dice = Dice(f"{settings.seed} {class_id} {index}")
    # A car sees a sign grow.
    side = round(dice.logarithmic(settings.size))
    light = dice.logarithmic(settings.brightness)  # grey level of white paint
    scene = _background(settings, dice, labels, side, light)
    if class_id != NO_SIGN:
        turned = class_id >= UPSIDE_DOWN
        shown = asymmetric_templates(labels) if turned else templates_of(labels)[class_id]
        template = dice.one_of(shown)
        corners = np.roll(_corners(settings, dice, side), 2 if turned else 0, axis=0)
        scene = _paint(settings, dice, scene, template, corners, light)
    if dice.random() < settings.occlusion:
        scene = _occlude(dice, scene, light)
    scene = cv2.multiply(scene, _as_colour(_shade(settings, dice, side)))
    # Stray light in the lens lifts the blacks.
    haze = settings.haze * dice.random() * min(light, 255)
    photo = _expose(settings, dice, scene, haze, light)
    if dice.random() < settings.mosaic:
        photo = _mosaic(photo)
    quality = round(dice.within(settings.quality))
    return cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _corners(
    settings: Synthesize, dice: Dice, side: int, offset: tuple[float, float] = (0, 0)
) -> Floats:
    """Pixels (4, 2) where a template's corners lie; `offset`, in sides, is from the middle."""
    half = side * (0.5 - dice.within(settings.margin))
    width = half * (1 + dice.either_way(settings.aspect))
    height = half * (1 + dice.either_way(settings.aspect))
    slant = settings.perspective * half
    angle = math.radians(dice.either_way(settings.rotation))
    cosine, sine = math.cos(angle), math.sin(angle)
    left = side * (0.5 + offset[0] + dice.either_way(settings.shift))
    top = side * (0.5 + offset[1] + dice.either_way(settings.shift))
    corners = []
    for right, down in SQUARE:
        x = right * width + dice.either_way(slant)
        y = down * height + dice.either_way(slant)
        corners.append((left + cosine * x - sine * y, top + sine * x + cosine * y))
    return np.array(corners, np.float32)


def _paint(
    settings: Synthesize, dice: Dice, scene: Floats, template: Path, corners: Floats, light: float
) -> Floats:
    """Put a sign, in faded or strong colours and unevenly worn, into the scene."""
    side, levels = len(scene), pyramid(template)
    if dice.random() < settings.aliasing:
        tile = levels[0]
    else:
        # The smallest level that is not smaller than the sign.
        size = math.sqrt(cv2.contourArea(corners))
        tile = next((t for t in reversed(levels) if len(t) >= size), levels[0])
    matrix = cv2.getPerspectiveTransform(FRAME * len(tile), corners)
    layer = cv2.warpPerspective(tile, matrix, (side, side), flags=cv2.INTER_LINEAR)
    if settings.bend:
        layer = _bend(layer, settings.bend * dice.random(), dice)
    fading = settings.fade * dice.random() ** 2
    angle = math.radians(dice.either_way(settings.hue))
    colours = np.array(_hue_and_saturation(angle, dice.within(settings.saturation)))
    for row in colours:
        # Neither the sun's colour nor the camera's white balance is neutral.
        row *= (1 + dice.either_way(0.1)) * (1 - fading) * light / 255
    # OpenCV mixes three channels to three several times as fast as four or one to three.
    paint = cv2.transform(cv2.cvtColor(layer, cv2.COLOR_BGRA2BGR), colours)
    covered = _as_colour(cv2.extractChannel(layer, 3))
    paint = cv2.scaleAdd(covered, fading * 0.8 * light, paint)
    left = 1 - (settings.wear * dice.random()) * _clouds(dice, side, (4, 12))
    paint = cv2.multiply(paint, _as_colour(left))
    return cv2.add(cv2.subtract(scene, cv2.multiply(scene, covered)), paint)


def _bend(layer: Floats, strength: float, dice: Dice) -> Floats:
    """Push each part of a template to some side by up to `strength` sides: dents, other designs.

    Elastic distortion, P. Simard et al., "Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis" (ICDAR 2003), with smooth noise for a field.
    """
    side = len(layer)
    most = 2 * strength * side
    rows, columns = _pixels(side)
    columns = columns + most * (_clouds(dice, side, (5,)) - 0.5)
    rows = rows + most * (_clouds(dice, side, (5,)) - 0.5)
    return cv2.remap(layer, columns, rows, cv2.INTER_LINEAR)


@cache
def _pixels(side: int) -> Floats:
    """Row and column of each pixel, float32 (2, side, side)."""
    return np.indices((side, side), np.float32)


def _hue_and_saturation(angle: float, saturation: float) -> tuple[tuple[float, ...], ...]:
    """A matrix that turns colours about the grey axis by `angle` and stretches them from it."""
    along, across = saturation * math.cos(angle), saturation * math.sin(angle) / math.sqrt(3)
    rest = (1 - along) / 3
    same, before, after = rest + along, rest - across, rest + across
    return (same, before, after), (after, same, before), (before, after, same)


def _as_colour(grey: Floats) -> Floats:
    """The same value in three channels: OpenCV has no broadcasting, NumPy's is slow on so few."""
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def _clouds(dice: Dice, side: int, grids: tuple[int, ...]) -> Floats:
    """Smooth noise of several grain sizes in 0..1, float32 (side, side)."""
    clouds: Floats = np.zeros((1, 1), np.float32)
    for grid in grids:
        clouds = cv2.resize(clouds, (grid, grid), interpolation=cv2.INTER_LINEAR)
        clouds += _piece(noise.uniform(), dice, (grid, grid))
    cv2.normalize(clouds, clouds, 0, 1, cv2.NORM_MINMAX)
    return cv2.resize(clouds, (side, side), interpolation=cv2.INTER_LINEAR)


def _background(settings: Synthesize, dice: Dice, labels: str, side: int, light: float) -> Floats:
    """Sky, leaves, walls and what else may stand behind a sign."""
    # Seldom lit as the sign is: it may stand in the shade before a bright sky.
    own_light = light if dice.random() < 0.4 else dice.logarithmic(settings.brightness)
    first = _colour(dice, own_light)
    if dice.random() < 0.8:
        contrast = dice.uniform(1, 6)
        clouds = _clouds(dice, side, dice.one_of(GRAINS))
        clouds *= contrast
        clouds += 0.5 - contrast / 2
        there = _colour(dice, own_light)
        change = [[there[i] - first[i], 0, 0, first[i]] for i in range(3)]
        scene: Floats = cv2.transform(_as_colour(_limited(clouds)), np.array(change))
    else:
        scene = np.full((side, side, 3), first, np.float32)
    for _ in range(dice.below(4)):
        colour = _colour(dice, own_light)
        # In the frame or near it.
        start, end = ([int(side * dice.uniform(-0.25, 1.25)) for _ in range(2)] for _ in range(2))
        if dice.random() < 0.5:
            width = 1 + dice.below(max(1, side // 6 - 1))
            cv2.line(scene, start, end, colour, width)
        else:
            cv2.rectangle(scene, start, end, colour, -1)
    if dice.random() < 0.5:
        half, middle = side * dice.uniform(0.02, 0.06), side * dice.uniform(0.45, 0.55)
        post = (int(middle - half), side // 2), (int(middle + half), side)
        cv2.rectangle(scene, *post, _colour(dice, own_light), -1)
    # Another sign, of which the frame shows an edge: posts often carry two or three.
    if dice.random() < 0.4:
        along, across = dice.either_way(0.3), dice.uniform(0.85, 1.0)
        where = dice.one_of(((along, across), (along, -across), (across, along), (-across, along)))
        corners = _corners(settings, dice, side, where)
        template = dice.one_of(dice.one_of(list(templates_of(labels).values())))
        scene = _paint(settings, dice, scene, template, corners, light)
    return scene


def _limited(values: Floats) -> Floats:
    """The same array, 0 to 1; `numpy.clip` takes four times as long on so few."""
    np.maximum(values, 0, out=values)
    np.minimum(values, 1, out=values)
    return values


def _occlude(dice: Dice, scene: Floats, light: float) -> Floats:
    """A branch, a wire, a sticker or leaves before the sign; most of it stays visible."""
    side, colour = len(scene), _colour(dice, light)
    start, end = ((dice.below(side), dice.below(side)) for _ in range(2))
    kind = dice.below(3)
    if kind == 0:
        cv2.line(scene, start, end, colour, 1 + dice.below(max(1, side // 12 - 1)))
    elif kind == 1:
        corner = [int(place + side * dice.uniform(0.08, 0.3)) for place in start]
        cv2.rectangle(scene, start, corner, colour, -1)
    else:
        # Only what grows in from outside: leaves in the middle would hide the pictogram.
        outwards = np.abs(_axis(side))
        leaves = _clouds(dice, side, (5, 9)) + np.maximum.outer(outwards, outwards) > 1.45
        scene[leaves] = colour
    return scene


def _colour(dice: Dice, light: float) -> tuple[float, ...]:
    """A colour as streets have them, mostly near grey."""
    # Squared, roughly: trees and houses are darker than signs.
    grey, tint = dice.random() ** 1.7, 0.5 * dice.random() ** 2
    return tuple(light * min(1, max(0, grey + dice.either_way(tint))) for _ in range(3))


def _shade(settings: Synthesize, dice: Dice, side: int) -> Floats:
    """Share of the light that arrives, soft or with a shadow's edge, float32 (side, side)."""
    angle, steepness = dice.uniform(0, 2 * math.pi), dice.uniform(0.5, 1) ** -4
    axis = _axis(side)
    across, along = axis * (math.sin(angle) * steepness), axis * (math.cos(angle) * steepness)
    edge: Floats = np.add.outer(across + dice.random(), along)
    return 1 - (settings.shade * dice.random()) * _limited(edge)


@cache
def _axis(side: int) -> Floats:
    return np.linspace(-1, 1, side, dtype=np.float32)


def _expose(settings: Synthesize, dice: Dice, scene: Floats, haze: float, light: float) -> Image:
    """Blur, add noise and lose what is too bright, in the order of lens and sensor."""
    # Relative to the side, else small frames would be wiped out and large ones untouched.
    # Squared, because most photos are sharp.
    low, high = settings.blur.low, settings.blur.high
    strength = (low + (high - low) * dice.random() ** 2) * len(scene)
    if dice.random() < 0.5:
        scene = cv2.GaussianBlur(scene, (0, 0), max(strength, 0.05))
    else:
        scene = cv2.filter2D(scene, -1, motion_kernel(strength * 3, dice.uniform(0, math.pi)))
    grain = _piece(noise.normal(), dice, scene.shape)
    strength = dice.within(settings.noise) * min(light, 255)
    return cv2.addWeighted(scene, 1, grain, strength, haze, dtype=cv2.CV_8U)  # type: ignore[return-value]


def _mosaic(photo: Image) -> Image:
    """What Bayer's sensor sees (US patent 3971065): fine details get coloured fringes."""
    seen = photo[:, :, 1].copy()
    seen[::2, ::2] = photo[::2, ::2, 2]
    seen[1::2, 1::2] = photo[1::2, 1::2, 0]
    return cv2.cvtColor(seen, cv2.COLOR_BayerRGGB2BGR)  # type: ignore[return-value]


def _piece(row: Floats, dice: Dice, shape: tuple[int, ...]) -> Floats:
    """A piece of a row of random numbers."""
    size = math.prod(shape)
    start = dice.below(len(row) - size)
    return row[start : start + size].reshape(shape)
