"""What docs/exports.md says of resizing, in plain NumPy, beside what the pipeline does."""

import numpy as np
import pytest

from signs.data import images
from signs.params import ImageSettings

SIZE = 32
SETTINGS = ImageSettings(size=SIZE, color="rgb", contrast="none", margin=0.05)


def weights(before: int, average: bool) -> np.ndarray:
    """(32, before): how much each old pixel of a row counts in each new one."""
    scale = before / SIZE
    if average:
        left = np.arange(SIZE)[:, None] * scale
        pixels = np.arange(before)[None, :]
        covered = np.minimum(left + scale, pixels + 1) - np.maximum(left, pixels)
        return np.clip(covered, 0, 1) / scale
    centres = np.clip((np.arange(SIZE) + 0.5) * scale - 0.5, 0, before - 1)
    return np.clip(1 - np.abs(centres[:, None] - np.arange(before)[None, :]), 0, 1)


def resize(photo: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    average = min(height, width) >= SIZE
    down, across = weights(height, average), weights(width, average)
    return np.rint(np.einsum("yh,hwc,xw->yxc", down, photo.astype(float), across))


@pytest.mark.parametrize("height", [8, 25, 32, 33, 47, 64, 300])
@pytest.mark.parametrize("width", [9, 32, 40, 96, 211])
def test_resizing_is_what_the_page_says(height: int, width: int) -> None:
    rng = np.random.default_rng(height * width)
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    made = images.crop_and_resize(photo, SETTINGS)
    assert np.abs(made - resize(photo)).max() <= 1


def test_the_region_keeps_its_margin() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (100, 200, 3), np.uint8)
    # 40 x 20 pixels, and 5 % of them on each side: 44 x 22.
    made = images.crop_and_resize(photo, SETTINGS, (0.1, 0.3, 0.3, 0.5))
    assert np.abs(made - resize(photo[29:51, 18:62])).max() <= 1
