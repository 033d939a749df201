"""Common corruptions of photos: 13 kinds in five levels of severity each.

Kinds and most strengths follow D. Hendrycks and T. Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations" (ICLR 2019); lengths are shares of a side
here, because photos of signs have all sizes. Occlusion, rotation, shift and scale are added.
"""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from signs.data.blur import motion_kernel
from signs.data.images import Image, Region

LEVELS = range(1, 6)
MAX_SIDE = 256
WHOLE = (0.0, 0.0, 1.0, 1.0)

Floats = npt.NDArray[np.floating]  # float32, 0 to 255
Change = Callable[[Floats, float, np.random.Generator, Region], MatLike]


def corrupt(
    photo: Image, kind: str, level: int, rng: np.random.Generator, region: Region | None = None
) -> Image:
    """A decoded photo, RGB uint8 (H, W, 3), corrupted in one of `KINDS`; levels are 1 to 5.

    What hides, turns or moves the sign is measured by its region; None is the whole photo.
    """
    change, strengths = KINDS[kind]
    changed = change(photo.astype(np.float32), strengths[level - 1], rng, region or WHOLE)
    return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)


def all_variants(photo: Image, seed: int, region: Region | None = None) -> list[Image]:
    """A photo in each kind and level of corruption, kinds outermost."""
    return [
        corrupt(photo, kind, level, np.random.default_rng([seed, number, level]), region)
        for number, kind in enumerate(KINDS)
        for level in LEVELS
    ]


def shrink(photo: Image) -> Image:
    """A photo of at most `MAX_SIDE` pixels a side: large ones would take minutes each."""
    longer = max(photo.shape[:2])
    if longer <= MAX_SIDE:
        return photo
    size = [max(1, round(side * MAX_SIDE / longer)) for side in photo.shape[1::-1]]
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)


def _either(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _brightness(photo: Floats, stops: float, rng: np.random.Generator, _: Region) -> MatLike:
    return np.asarray(photo * 2 ** (stops * _either(rng)))


def _contrast(photo: Floats, kept: float, _: np.random.Generator, __: Region) -> MatLike:
    mean = photo.mean(axis=(0, 1))
    return np.asarray((photo - mean) * kept + mean)


def _fog(photo: Floats, density: float, rng: np.random.Generator, _: Region) -> MatLike:
    clouds = np.zeros(photo.shape[:2], np.float32)
    for cells in (2, 4, 8):
        grid = rng.random((cells, cells), np.float32)
        clouds += cv2.resize(grid, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC) / cells
    spread = np.ptp(clouds)
    clouds = 0.5 + (clouds - clouds.min()) / (2 * spread if spread else 1.0)
    cover: Floats = density * clouds[:, :, None]
    return photo * (1 - cover) + 230 * cover


def _motion_blur(photo: Floats, length: float, rng: np.random.Generator, _: Region) -> MatLike:
    kernel = motion_kernel(length * max(photo.shape[:2]), rng.uniform(0, np.pi))
    return cv2.filter2D(photo, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def _defocus(photo: Floats, radius: float, _: np.random.Generator, __: Region) -> MatLike:
    reach = radius * max(photo.shape[:2])
    half = int(np.ceil(reach)) + 1
    distance = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    # A disk with a soft rim, so that small photos are blurred by parts of a pixel, too.
    disk = np.clip(reach + 0.5 - distance, 0, 1).astype(np.float32)
    return cv2.filter2D(photo, -1, disk / disk.sum(), borderType=cv2.BORDER_REPLICATE)


def _gaussian_noise(photo: Floats, sigma: float, rng: np.random.Generator, _: Region) -> MatLike:
    return photo + 255 * sigma * rng.standard_normal(photo.shape, np.float32)


def _impulse_noise(photo: Floats, share: float, rng: np.random.Generator, _: Region) -> MatLike:
    hit = rng.random(photo.shape, np.float32)
    return np.where(hit < share / 2, 0, np.where(hit < share, 255, photo))


def _jpeg(photo: Floats, quality: float, _: np.random.Generator, __: Region) -> MatLike:
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    content = cv2.imencode(".jpg", photo.astype(np.uint8)[:, :, ::-1], options)[1]
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR_RGB), np.float32)


def _pixelation(photo: Floats, kept: float, _: np.random.Generator, __: Region) -> MatLike:
    size = photo.shape[1::-1]
    small = [max(1, round(side * kept)) for side in size]
    coarse = cv2.resize(photo, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_NEAREST)


def _occlusion(photo: Floats, share: float, rng: np.random.Generator, region: Region) -> MatLike:
    """Hide a share of the sign's area behind a square of one colour."""
    left, top, width, height = _pixels(photo, region)
    across, down = width * np.sqrt(share), height * np.sqrt(share)
    x = int(left + rng.random() * (width - across))
    y = int(top + rng.random() * (height - down))
    changed = photo.copy()
    changed[y : y + max(1, round(down)), x : x + max(1, round(across))] = rng.uniform(0, 255, 3)
    return changed


def _rotation(photo: Floats, degrees: float, rng: np.random.Generator, region: Region) -> MatLike:
    return _warp(photo, region, angle=degrees * _either(rng))


def _shift(photo: Floats, share: float, rng: np.random.Generator, region: Region) -> MatLike:
    direction = rng.uniform(0, 2 * np.pi)
    _, _, width, height = _pixels(photo, region)
    x, y = share * width * np.cos(direction), share * height * np.sin(direction)
    return _warp(photo, region, x=x, y=y)


def _scale(photo: Floats, factor: float, rng: np.random.Generator, region: Region) -> MatLike:
    return _warp(photo, region, scale=factor ** _either(rng))


def _warp(
    photo: Floats, region: Region, angle: float = 0, scale: float = 1, x: float = 0, y: float = 0
) -> MatLike:
    """Turn and scale about the sign's centre, then move by x and y pixels."""
    left, top, width, height = _pixels(photo, region)
    centre = left + width / 2 - 0.5, top + height / 2 - 0.5
    matrix = cv2.getRotationMatrix2D(centre, angle, scale)
    matrix[:, 2] += np.array([x, y])
    return cv2.warpAffine(photo, matrix, photo.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def _pixels(photo: Floats, region: Region) -> tuple[float, float, float, float]:
    """Left, top, width and height of the region in pixels."""
    height, width = photo.shape[:2]
    left, top, right, bottom = region
    return left * width, top * height, (right - left) * width, (bottom - top) * height


# What each does, and its strength at the levels 1 to 5.
KINDS: dict[str, tuple[Change, tuple[float, ...]]] = {
    "brightness": (_brightness, (0.5, 1, 1.5, 2, 2.5)),  # stops of exposure, more or less
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),  # share that is left
    "fog": (_fog, (0.4, 0.5, 0.6, 0.7, 0.8)),  # of the light, where the fog is thickest
    "motion blur": (_motion_blur, (0.06, 0.1, 0.15, 0.2, 0.25)),  # length, of the longer side
    "defocus": (_defocus, (0.02, 0.03, 0.045, 0.06, 0.08)),  # radius, of the longer side
    "Gaussian noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),  # sigma, of the range
    "impulse noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),  # share of the values
    "JPEG": (_jpeg, (25, 18, 15, 10, 7)),  # quality
    "pixelation": (_pixelation, (0.6, 0.5, 0.4, 0.3, 0.25)),  # of the pixels of a side are left
    "occlusion": (_occlusion, (0.05, 0.1, 0.15, 0.2, 0.3)),  # of the sign's area
    "rotation": (_rotation, (5, 10, 15, 20, 25)),  # degrees, either way
    "shift": (_shift, (0.05, 0.1, 0.15, 0.2, 0.25)),  # of the sign's side, any direction
    "scale": (_scale, (1.1, 1.2, 1.35, 1.5, 1.75)),  # larger or smaller
}
