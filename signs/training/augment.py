"""Random changes of training images. None flips an image or changes what a sign means:
mirrored arrows and curves are other signs, so rotations stay small and flips do not exist.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from signs.data.blur import motion_kernel
from signs.machine import cores
from signs.params import Augment

RANDOM_NUMBERS = 2**20

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]


def augment(images: Images, settings: Augment, rng: np.random.Generator) -> Images:
    """Each image, uint8 (N, size, size, channels), changed at random.

    All random numbers come before the threads: the number of cores does not change the result.
    """
    count, size = images.shape[:2]
    channels = images.shape[3]
    matrices = _affine_matrices(count, size, settings, rng)
    curves = _curves(count, channels, settings, rng)
    shades = _shades(count, settings, rng)
    noises = settings.noise * rng.random(count) ** 2
    pieces = rng.integers(0, RANDOM_NUMBERS - size * size * channels, count)
    kinds, strengths, angles, erased = rng.random((4, count))
    corners = rng.uniform(0, 0.8, (count, 2)) * size
    extents = rng.uniform(0.1, 0.35, (count, 2)) * size
    colors = rng.integers(0, 256, (count, channels))
    result = np.empty_like(images)

    def change(rows: range) -> None:
        for row in rows:
            image = cv2.warpAffine(
                images[row], matrices[row], (size, size), borderMode=cv2.BORDER_REPLICATE
            )
            image = _resolution(image, kinds[row], strengths[row], angles[row], settings)
            if curves is not None:
                image = cv2.LUT(image, curves[row])
            if noises[row] > 0.002 or shades is not None:
                light = image.astype(np.float32).reshape(size, size, channels)
                if shades is not None:
                    light *= shades[row](size)[:, :, None]
                if noises[row] > 0.002:
                    piece = _normal()[pieces[row] : pieces[row] + light.size]
                    light += piece.reshape(light.shape) * (255 * noises[row])
                image = np.clip(light, 0, 255).astype(np.uint8)
            result[row] = image.reshape(result.shape[1:])
            if erased[row] < settings.erase:
                (x, y), (w, h) = corners[row].astype(int), extents[row].astype(int)
                result[row, y : y + h, x : x + w] = colors[row]

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(change, [range(start, count, cores()) for start in range(cores())]))
    return result


def _resolution(image, kind, strength, angle, settings):
    size = image.shape[0]
    kinds = (
        ("blur", settings.blur),
        ("motion", settings.motion),
        ("coarse", settings.coarse),
        ("sharpen", settings.sharpen),
    )
    for name, share in kinds:
        kind -= share
        if kind >= 0:
            continue
        if name == "blur":
            return cv2.GaussianBlur(image, (0, 0), 0.4 + 0.8 * strength)
        if name == "motion":
            kernel = motion_kernel(size * (0.05 + 0.15 * strength), angle * math.pi)
            return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        if name == "coarse":
            side = round(size * (0.35 + 0.5 * strength))
            small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            way = (cv2.INTER_LINEAR, cv2.INTER_NEAREST, cv2.INTER_CUBIC)[int(angle * 3)]
            return cv2.resize(small, (size, size), interpolation=way)
        soft = cv2.GaussianBlur(image, (0, 0), 1.0)
        return cv2.addWeighted(image, 1 + 1.5 * strength, soft, -1.5 * strength, 0)
    return image


def _curves(count, channels, settings, rng):
    """(count, 1, 256, channels) uint8 tone curves, None if nothing changes."""
    gain, offset, gamma = rng.uniform(-1, 1, (3, count, 1, 1))
    tint = 1 + settings.tint * rng.uniform(-1, 1, (count, 1, channels))
    if not (settings.contrast or settings.brightness or settings.gamma or settings.tint):
        return None
    levels = np.arange(256, dtype=np.float32)[None, :, None] / 255
    levels = levels ** (2.0 ** (settings.gamma * gamma))
    gain = 1 + settings.contrast * gain
    # Contrast turns around mid-grey, so it does not also darken.
    levels = 127.5 * (1 - gain) + 255 * (gain * levels * tint + settings.brightness * offset)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)[:, None]


def _shades(count, settings, rng):
    if not settings.shade:
        return None
    angle, start, steep, depth = rng.random((4, count))
    depth = settings.shade * depth

    def of(row):
        def shade(size):
            axis = np.linspace(-1, 1, size, dtype=np.float32)
            slope = 0.5 * (0.5 + 0.5 * steep[row]) ** -4
            a = 2 * math.pi * angle[row]
            edge = np.add.outer(axis * (math.sin(a) * slope) + start[row], axis * (math.cos(a) * slope))
            return (1 - depth[row] * np.clip(edge, 0, 1)).astype(np.float32)

        return shade

    return [of(row) for row in range(count)]


@cache
def _normal() -> Floats:
    return np.random.default_rng(0).standard_normal(RANDOM_NUMBERS, np.float32)


def _affine_matrices(
    count: int, size: int, settings: Augment, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(count, 2, 3) matrices: rotation, scale and shear around the centre, then a shift."""
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation, count))
    scale = rng.uniform(1 - settings.scale, 1 + settings.scale, (count, 1, 1))
    shear = rng.uniform(-settings.shear, settings.shear, count)
    shift = rng.uniform(-settings.shift, settings.shift, (count, 2)) * size
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1)
    shearing = np.stack([np.ones(count), shear, np.zeros(count), np.ones(count)], axis=1)
    linear = scale * (rotation.reshape(-1, 2, 2) @ shearing.reshape(-1, 2, 2))
    centre = np.full(2, (size - 1) / 2)
    return np.concatenate([linear, (centre - linear @ centre + shift)[:, :, None]], axis=2)
