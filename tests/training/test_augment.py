"""Random changes of training images: how often, how strong, and never another sign."""

import cv2
import numpy as np
import pytest

from signs.params import Augment
from signs.training import augment as module
from signs.training.augment import augment

# As strong as the recipes of params.yaml or stronger, all at once.
STRONG = {
    "rotation": 20.0,
    "scale": 0.3,
    "shift": 0.1,
    "shear": 0.2,
    "contrast": 0.5,
    "brightness": 0.2,
    "exposure": 1.5,
    "gamma": 0.5,
    "tint": 0.1,
    "shade": 0.5,
    "noise": 0.1,
    "blur": 0.25,
    "motion": 0.25,
    "coarse": 0.25,
    "sharpen": 0.25,
    "erase": 0.5,
}
SHARES = "blur", "motion", "coarse", "sharpen", "erase"


def strengths(**changes: float) -> Augment:
    return Augment.model_validate(dict.fromkeys(STRONG, 0.0) | changes)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photos(count: int = 24, size: int = 32, channels: int = 3) -> np.ndarray:
    small = random(1).integers(0, 256, (count, 6, 6, channels), np.uint8)
    large = [cv2.resize(image, (size, size)) for image in small]
    return np.stack(large).reshape(count, size, size, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32, 100])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_shapes(count: int, size: int, channels: int) -> None:
    images = photos(count, size, channels) if count else np.zeros((0, size, size, channels), "u1")
    result = augment(images, strengths(**STRONG), random())
    assert result.shape == images.shape
    assert result.dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_changed_at_strength_zero(channels: int) -> None:
    images = photos(channels=channels)
    assert (augment(images, strengths(), random()) == images).all()


@pytest.mark.parametrize("name", STRONG)
def test_each_setting_changes_images(name: str) -> None:
    images = photos(200)
    before = images.copy()
    result = augment(images, strengths(**{name: STRONG[name]}), random())
    changed = (result != images).reshape(200, -1).any(axis=1).mean()
    wanted = STRONG[name] if name in SHARES else 1.0
    # Most exposures are close to right.
    assert changed == pytest.approx(wanted, abs=0.2 if name == "exposure" else 0.12)
    assert (images == before).all()


def test_contrast_does_not_darken_and_brightness_keeps_contrast() -> None:
    images = np.stack([np.full((8, 8, 1), v, np.uint8) for v in (64, 127, 191)] * 400)
    by_contrast = augment(images, strengths(contrast=0.5), random()).astype(int)
    assert np.abs(by_contrast[1::3] - 127).max() <= 1
    assert by_contrast[0::3].min() >= 31
    assert by_contrast[0::3].max() <= 97
    by_brightness = augment(images, strengths(brightness=0.2), random()).astype(int)
    assert np.abs(by_brightness - images).max() in (50, 51, 52)


def test_exposure_is_mostly_right_and_clips_at_its_worst() -> None:
    images = np.full((3000, 8, 8, 1), 100, np.uint8)
    levels = augment(images, strengths(exposure=1.5), random()).max(axis=(1, 2, 3))
    assert levels.min() in (35, 36, 37)  # 2 ** -1.5 of it
    assert levels.max() == 255
    assert np.median(np.abs(np.log2(levels / 100))) < 0.25


def test_the_number_of_cores_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(module, "cores", lambda cores=cores: cores)
        results.append(augment(photos(), strengths(**STRONG), random(3)))
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


def test_the_generator_alone_decides() -> None:
    results = [augment(photos(), strengths(**STRONG), random(seed)) for seed in (3, 3, 4)]
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


def test_same_images_get_different_changes() -> None:
    images = np.repeat(photos(1), 10, axis=0)
    result = augment(images, strengths(rotation=15.0), random())
    assert len({image.tobytes() for image in result}) == 10


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize(
    "allowed", [STRONG | {"erase": 0.0}, {"rotation": 44.0}, {"shear": 0.5}, {"shift": 0.2}]
)
def test_a_sign_is_never_mirrored(allowed: dict[str, float], turns: int) -> None:
    """The bright half stays on its side: left, and after a turn of the axes on top."""
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, :16] = 255
    images = np.repeat(np.rot90(half, -turns)[None], 200, axis=0)
    result = augment(images, strengths(**allowed), random(2)).astype(float)
    bright, dark = np.split(result, 2, axis=1 if turns else 2)
    assert (bright.mean(axis=(1, 2, 3)) > dark.mean(axis=(1, 2, 3))).all()


@pytest.mark.parametrize("seed", range(3))
def test_matrices_neither_mirror_nor_exceed_the_limits(seed: int) -> None:
    strongest = strengths(rotation=45.0, scale=0.9, shear=0.5, shift=0.5)
    matrices = module._affine_matrices(2000, 32, strongest, random(seed))
    determinants = np.linalg.det(matrices[:, :, :2])
    assert (determinants > 0).all()
    sizes = np.sqrt(determinants)
    assert sizes.min() >= 0.1 - 1e-9
    assert sizes.max() <= 1.9 + 1e-9
    turned = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert np.abs(turned).max() <= 45 + 1e-6
    centre = matrices @ np.array([15.5, 15.5, 1.0])
    assert np.abs(centre - 15.5).max() <= 16
