"""Random changes of training images. None flips an image or changes what a sign means:
mirrored arrows and curves are other signs, so rotations stay small and flips do not exist.

Each step takes all its random numbers before any image is changed, so the number of cores does
not change the result. Images are uint8 (N, size, size, channels).
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from signs.data.blur import motion_kernel
from signs.machine import cores
from signs.params import Augment

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Step = Callable[[int, Images], Images]  # row and image (size, size, channels) → the image changed

RANDOM_NUMBERS = 2**20
INTERPOLATIONS = cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC


WANTED: set = set()


def augment(images: Images, settings: Augment, rng: np.random.Generator) -> Images:
    """Each image, changed at random: where it lies, its sharpness, its light, what hides it."""
    shape = images.shape
    steps = [make(shape, settings, rng) for make in (_move, _resample, _light, _erase)]
    result = np.empty_like(images)

    def change(rows: range) -> None:
        for row in rows:
            image = images[row]
            for step in steps:
                # OpenCV drops the axis of a single channel.
                image = step(row, image).reshape(shape[1:])
            result[row] = image

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(change, [range(start, len(images), cores()) for start in range(cores())]))
    return result


def _move(shape: tuple[int, ...], settings: Augment, rng: np.random.Generator) -> Step:
    """Rotation, scale, shear and shift."""
    count, size = shape[:2]
    matrices = _affine_matrices(count, size, settings, rng)

    def step(row: int, image: Images) -> Images:
        return cv2.warpAffine(  # type: ignore[return-value]
            image, matrices[row], (size, size), borderMode=cv2.BORDER_REPLICATE
        )

    return step


def _affine_matrices(
    count: int, size: int, settings: Augment, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(count, 2, 3) matrices: rotation, scale and shear around the centre, then a shift."""
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation, count))
    scale = rng.uniform(1 - settings.scale, 1 + settings.scale, (count, 1, 1))
    aspect = rng.uniform(-0.1, 0.1, count) if "aspect" in WANTED else np.zeros(count)
    shear = rng.uniform(-settings.shear, settings.shear, count)
    shift = rng.uniform(-settings.shift, settings.shift, (count, 2)) * size
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1)
    shearing = np.stack([1 + aspect, shear, np.zeros(count), 1 - aspect], axis=1)
    linear = scale * (rotation.reshape(-1, 2, 2) @ shearing.reshape(-1, 2, 2))
    centre = np.full(2, (size - 1) / 2)
    return np.concatenate([linear, (centre - linear @ centre + shift)[:, :, None]], axis=2)


def _resample(shape: tuple[int, ...], settings: Augment, rng: np.random.Generator) -> Step:
    """What another lens, distance or camera makes of it: one kind at most of each image."""
    count, size = shape[:2]
    kind, strength, choice = rng.random((3, count))
    shares = settings.blur, settings.motion, settings.coarse, settings.sharpen
    kinds = np.searchsorted(np.cumsum(shares), kind, side="right")

    def step(row: int, image: Images) -> Images:
        return changes[kinds[row]](image, strength[row], choice[row])

    def blur(image: Images, strength: float, _: float) -> Images:
        return cv2.GaussianBlur(image, (0, 0), size * (0.012 + 0.025 * strength))  # type: ignore[return-value]

    def motion(image: Images, strength: float, choice: float) -> Images:
        kernel = motion_kernel(size * (0.05 + 0.15 * strength), choice * math.pi)
        return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)  # type: ignore[return-value]

    def coarsen(image: Images, strength: float, choice: float) -> Images:
        side = round(size * (0.35 + 0.5 * strength))
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (size, size), interpolation=INTERPOLATIONS[int(3 * choice)])  # type: ignore[return-value]

    def sharpen(image: Images, strength: float, _: float) -> Images:
        soft = cv2.GaussianBlur(image, (0, 0), size / 32)
        return cv2.addWeighted(image, 1 + 1.5 * strength, soft, -1.5 * strength, 0)  # type: ignore[return-value]

    changes = blur, motion, coarsen, sharpen, lambda image, *_: image
    return step


def _light(shape: tuple[int, ...], settings: Augment, rng: np.random.Generator) -> Step:
    """Exposure, contrast and colour of the light, a shadow, and the sensor's noise."""
    count, size, _, channels = shape
    curves = _tone_curves(count, channels, settings, rng)
    angle, start, steepness, depth = rng.random((4, count))
    slope = 0.5 * (0.5 + 0.5 * steepness) ** -4
    across, along = slope * np.sin(2 * math.pi * angle), slope * np.cos(2 * math.pi * angle)
    depth *= settings.shade
    sigma = 255 * settings.noise * rng.random(count) ** 2
    pieces = rng.integers(0, RANDOM_NUMBERS - size * size * channels, count)
    axis = np.linspace(-1, 1, size, dtype=np.float32)

    def step(row: int, image: Images) -> Images:
        image = np.asarray(cv2.LUT(image, curves[row]), np.uint8).reshape(image.shape)
        if depth[row] == 0 and sigma[row] == 0:
            return image
        edge = np.add.outer(axis * across[row] + start[row], axis * along[row])
        light = image * (1 - depth[row] * np.clip(edge, 0, 1))[:, :, None]
        noise = _normal()[pieces[row] : pieces[row] + image.size].reshape(image.shape)
        return np.asarray(np.clip(light + sigma[row] * noise + 0.5, 0, 255), np.uint8)

    return step


def _tone_curves(count: int, channels: int, settings: Augment, rng: np.random.Generator) -> Images:
    """What each of 256 levels becomes, uint8 (count, 1, 256, channels)."""
    contrast, brightness, gamma = rng.uniform(-1, 1, (3, count, 1, 1))
    tint = 1 + settings.tint * rng.uniform(-1, 1, (count, 1, channels))
    levels = (np.arange(256) / 255)[None, :, None] ** 2 ** (settings.gamma * gamma)
    if "expose" in WANTED:
        levels = levels * 2 ** (1.5 * rng.uniform(-1, 1, (count, 1, 1)) ** 3)
    if "expose2" in WANTED:
        levels = levels * 2 ** (2.5 * rng.uniform(-1, 1, (count, 1, 1)) ** 3)
    gain = 1 + settings.contrast * contrast
    # Contrast turns around mid-grey, so it does not also darken.
    levels = 0.5 + gain * (levels * tint - 0.5) + settings.brightness * brightness
    return np.asarray(np.rint(255 * np.clip(levels, 0, 1)), np.uint8)[:, None]


def _erase(shape: tuple[int, ...], settings: Augment, rng: np.random.Generator) -> Step:
    """Paint over a rectangle (Z. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020)."""
    count, size, _, channels = shape
    erased = rng.random(count) < settings.erase
    corners = (rng.uniform(0, 0.8, (count, 2)) * size).astype(int)
    extents = (rng.uniform(0.1, 0.5 if "erase5" in WANTED else 0.35, (count, 2)) * size).astype(int)
    colors = rng.integers(0, 256, (count, channels))

    def step(row: int, image: Images) -> Images:
        if erased[row]:
            (x, y), (width, height) = corners[row], extents[row]
            image = image.copy()
            image[y : y + height, x : x + width] = colors[row]
        return image

    return step


@cache
def _normal() -> Floats:
    """A long row of random numbers, of which images take pieces: ten times as fast."""
    return np.random.default_rng(0).standard_normal(RANDOM_NUMBERS, np.float32)
