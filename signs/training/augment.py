"""Random changes of training images. None flips an image or changes what a sign means:
mirrored arrows and curves are other signs, so rotations stay small and flips do not exist.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt

from signs.machine import cores
from signs.params import Augment

Images = npt.NDArray[np.uint8]


def augment(images: Images, settings: Augment, rng: np.random.Generator) -> Images:
    """Each image, uint8 (N, size, size, channels), changed at random.

    All random numbers come before the threads: the number of cores does not change the result.
    """
    count, size = images.shape[:2]
    matrices = _affine_matrices(count, size, settings, rng)
    gain, offset = rng.uniform(-1, 1, (2, count))
    gain = 1 + settings.contrast * gain
    # Contrast turns around mid-grey, so it does not also darken.
    offset = 127.5 * (1 - gain) + 255 * settings.brightness * offset
    blurred, erased = rng.random((2, count))
    corners = rng.uniform(0, 0.8, (count, 2)) * size
    extents = rng.uniform(0.1, 0.35, (count, 2)) * size
    colors = rng.integers(0, 256, (count, images.shape[3]))
    result = np.empty_like(images)

    def change(rows: range) -> None:
        for row in rows:
            image = cv2.warpAffine(
                images[row], matrices[row], (size, size), borderMode=cv2.BORDER_REPLICATE
            )
            if blurred[row] < settings.blur:
                image = cv2.GaussianBlur(image, (3, 3), 0)
            if settings.contrast or settings.brightness:
                image = cv2.addWeighted(image, gain[row], image, 0, offset[row])
            result[row] = image.reshape(result.shape[1:])
            if erased[row] < settings.erase:
                (x, y), (w, h) = corners[row].astype(int), extents[row].astype(int)
                result[row, y : y + h, x : x + w] = colors[row]

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(change, [range(start, count, cores()) for start in range(cores())]))
    return result


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
