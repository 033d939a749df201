"""Corruptions: stronger from level to level, the same for the same seed, at any size."""

import itertools

import cv2
import numpy as np
import pytest

from signs.data.images import Region
from signs.evaluation.corruptions import KINDS, LEVELS, MAX_SIDE, all_variants, corrupt, shrink

SIGN = (0.25, 0.25, 0.75, 0.75)


def scene(height: int = 96, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(5)
    photo = cv2.resize(rng.integers(60, 200, (6, 5, 3), np.uint8), (width, height))
    cv2.circle(photo, (width // 2, height // 2), width // 4, (200, 30, 30), -1)
    cv2.putText(photo, "30", (width // 3, height * 3 // 5), 0, width / 120, (255, 255, 255), 2)
    return photo


def damage(kind: str, level: int, photo: np.ndarray) -> float:
    """Mean difference over several seeds."""
    seeds = map(np.random.default_rng, range(8))
    changed = [corrupt(photo, kind, level, rng, SIGN).astype(float) for rng in seeds]
    return float(np.abs(np.stack(changed) - photo).mean())


def test_the_thirteen_kinds() -> None:
    assert len(KINDS) == 13
    assert all(len(strengths) == len(LEVELS) for _, strengths in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_each_level_is_worse_than_the_one_before(kind: str) -> None:
    photo = scene()
    damages = [damage(kind, level, photo) for level in LEVELS]
    assert damages[0] > 0.4
    # Halving a side exactly costs less than the uneven share before it.
    assert all(worse > 0.9 * better for better, worse in itertools.pairwise(damages))
    assert damages[-1] > 1.5 * damages[0]


@pytest.mark.parametrize("size", [(8, 8), (15, 250), (250, 15), (300, 300)])
@pytest.mark.parametrize("kind", KINDS)
def test_photos_of_any_size(kind: str, size: tuple[int, int]) -> None:
    photo = scene(*size) if min(size) > 20 else np.full((*size, 3), 128, np.uint8)
    for level in (1, 5):
        changed = corrupt(photo, kind, level, np.random.default_rng(1))
        assert changed.shape == photo.shape
        assert changed.dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_photo_and_the_original_is_left_alone(kind: str) -> None:
    photo = scene()
    before = photo.copy()
    one, other = (corrupt(photo, kind, 3, np.random.default_rng(7), SIGN) for _ in range(2))
    assert (one == other).all()
    assert (photo == before).all()


def test_occlusion_hides_its_share_of_the_sign_and_nothing_else() -> None:
    photo = np.full((100, 200, 3), 255, np.uint8)
    for seed in range(20):
        changed = corrupt(photo, "occlusion", 5, np.random.default_rng(seed), SIGN)
        hidden = (changed != photo).any(axis=2)
        assert hidden.sum() == pytest.approx(0.3 * 50 * 100, rel=0.05)
        assert not np.delete(hidden, np.s_[25:75], axis=0).any()
        assert not np.delete(hidden, np.s_[50:150], axis=1).any()


def centre(kind: str, seed: int, start: tuple[int, int], region: Region) -> np.ndarray:
    """Where a dot is after the strongest change: x, y in pixels."""
    photo = np.zeros((101, 101, 3), np.uint8)
    cv2.circle(photo, start, 6, (255, 255, 255), -1)
    changed = corrupt(photo, kind, 5, np.random.default_rng(seed), region)
    return np.argwhere(changed[:, :, 0] > 128).mean(axis=0)[::-1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["rotation", "scale"])
def test_the_centre_of_the_sign_stays_where_it_is(kind: str, seed: int) -> None:
    found = centre(kind, seed, (30, 50), (0.1, 0.3, 0.5, 0.7))
    assert found == pytest.approx([30, 50], abs=0.5)


@pytest.mark.parametrize("seed", range(8))
def test_shift_moves_by_a_share_of_the_sign(seed: int) -> None:
    moved = centre("shift", seed, (50, 50), SIGN) - 50
    assert np.hypot(*moved) == pytest.approx(0.25 * 50.5, abs=0.7)


def test_all_variants_in_the_order_of_kinds_and_levels() -> None:
    photo = scene()
    variants = all_variants(photo, 4, SIGN)
    assert len(variants) == 13 * 5
    number = list(KINDS).index("fog")
    again = corrupt(photo, "fog", 2, np.random.default_rng([4, number, 2]), SIGN)
    assert (variants[number * 5 + 1] == again).all()
    assert (variants[number * 5 + 1] != all_variants(photo, 5, SIGN)[number * 5 + 1]).any()


def test_only_large_photos_are_shrunk() -> None:
    photo = scene()
    assert shrink(photo) is photo
    assert shrink(scene(300, 1200)).shape == (64, MAX_SIDE, 3)
    assert shrink(np.zeros((9, 4000, 3), np.uint8)).shape == (1, MAX_SIDE, 3)
