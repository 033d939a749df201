"""Intervals of a share; SciPy, enumeration and simulation are the oracles."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from signs.evaluation import intervals


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four: Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(successes: int, total: int, low: float, high: float) -> None:
    assert intervals.wilson(successes, total) == pytest.approx((low, high), abs=6e-5)


def test_a_photo_without_a_group_is_its_own() -> None:
    assert intervals.group_numbers(pd.Series(["a", "", "a", "", "b"])).tolist() == [0, 1, 0, 2, 3]
    assert intervals.group_numbers(pd.Series([2, 2, 7], index=[9, 9, 1])).tolist() == [0, 0, 1]


def test_bootstrap_of_three_groups_equals_all_27_draws() -> None:
    right, photos = np.array([1, 5, 9]), np.array([10, 8, 9])
    draws = [list(draw) for draw in itertools.product(range(3), repeat=3)]
    shares = [right[draw].sum() / photos[draw].sum() for draw in draws]
    expected = np.percentile(shares, [2.5, 97.5], method="inverted_cdf")
    assert intervals.bootstrap(right, photos) == pytest.approx(expected)


def test_bootstrap_equals_scipys() -> None:
    rng = np.random.default_rng(4)
    photos = rng.integers(1, 40, 50)
    right = rng.binomial(photos, rng.beta(4, 1, 50))

    def share(right: np.ndarray, photos: np.ndarray, axis: int) -> np.ndarray:
        return right.sum(axis=axis) / photos.sum(axis=axis)

    expected = stats.bootstrap(
        (right, photos), share, paired=True, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    assert intervals.bootstrap(right, photos) == pytest.approx(tuple(expected), abs=0.003)


def test_single_photos_have_nearly_wilsons_interval() -> None:
    correct = np.arange(2000) % 20 != 0
    for group in (pd.Series([""] * 2000), pd.Series(range(2000))):
        found = intervals.by_group(correct, group)
        assert found == pytest.approx(intervals.wilson(1900, 2000), abs=0.002)


def test_coverage_of_clustered_photos() -> None:
    """The frames of a sign are alike: its accuracy is drawn once, 90 % on average."""
    rng, group = np.random.default_rng(5), pd.Series(np.repeat(np.arange(80), 20))
    covered = np.zeros(2)
    for _ in range(200):
        correct = rng.random(1600) < rng.beta(2.1, 2.1 / 9, 80)[group]
        found = intervals.by_group(correct, group), intervals.wilson(correct.sum(), 1600)
        covered += [low <= 0.9 <= high for low, high in found]
    by_group, by_photo = covered / 200
    assert by_group > 0.9
    assert by_photo < 0.7


@pytest.mark.parametrize(
    ("shares", "groups"),
    [([1.0], 30), ([0.0], 30), ([0.5], 30), ([1.0], 1), ([0.5, 1.0], 4)],
    ids=["all right", "all wrong", "all alike", "one group", "few groups"],
)
def test_groups_that_tell_too_little_count_as_one_photo_each(
    shares: list[float], groups: int
) -> None:
    right = np.resize(shares, groups)
    correct = (np.arange(10) < 10 * right[:, None]).ravel()
    found = intervals.by_group(correct, pd.Series(np.repeat(np.arange(groups), 10)))
    expected = intervals.wilson(round(right.sum()), groups)
    assert found == pytest.approx(expected)
    assert found[1] - found[0] > 0.1


def test_no_photo_says_nothing() -> None:
    assert intervals.by_group(np.zeros(0, bool), pd.Series([], dtype=str)) == (0, 1)


def test_never_narrower_than_for_independent_photos() -> None:
    """One wrong photo: most draws of groups do not have it twice."""
    correct, group = np.arange(360) != 5, pd.Series(np.repeat(np.arange(12), 30))
    low, high = intervals.by_group(correct, group)
    by_photo = intervals.wilson(359, 360)
    assert low <= by_photo[0]
    assert high >= by_photo[1]
