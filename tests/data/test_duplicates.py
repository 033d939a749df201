"""Duplicates: what shows the same thing is found, joined into groups, and counted as a leak."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signs.data import alike, duplicates, splits
from signs.data.duplicates import count_near_duplicates, count_shared, near_duplicate_pairs
from signs.data.splits import TEST, TRAIN, UNUSED, VALIDATION
from signs.params import Split

NO_LEAK = {VALIDATION: 0, TEST: 0}


def test_groups_join_transitively():
    group = duplicates.groups(7, np.array([[0, 3], [3, 5], [2, 4]]))
    together = {frozenset(np.flatnonzero(group == g).tolist()) for g in group}
    assert together == {frozenset(s) for s in ({0, 3, 5}, {2, 4}, {1}, {6})}
    assert len(np.unique(duplicates.groups(4, np.empty((0, 2), np.int64)))) == 4


@given(values=st.lists(st.sampled_from(["", "a", "b", "c", "aa"]), min_size=1, max_size=40))
def test_images_with_the_same_value_make_one_group(values):
    pairs = duplicates.same_value_pairs(np.array(values))
    group = duplicates.groups(len(values), pairs)
    for i, j in itertools.combinations(range(len(values)), 2):
        assert (group[i] == group[j]) == (values[i] == values[j] != "")


# Near-duplicates


def correlated(base: np.ndarray, correlation: float, rng: np.random.Generator) -> np.ndarray:
    """A 16 x 16 image whose correlation with `base` is as wanted, apart from rounding."""
    first = (base - base.mean()) / base.std()
    other = rng.normal(size=base.shape)
    other -= other.mean() + first * (first * other).mean()
    other /= other.std()
    mixed = correlation * first + np.sqrt(1 - correlation**2) * other
    return np.clip(128 + 30 * mixed, 0, 255).round().astype(np.uint8)


@pytest.fixture
def base() -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.clip(128 + 30 * rng.normal(size=(16, 16)), 0, 255).astype(np.uint8)


def pairs_of(*thumbnails: np.ndarray, labels: list[int] | None = None) -> list[list[int]]:
    chosen = np.array(labels or [4] * len(thumbnails))
    return sorted(near_duplicate_pairs(np.stack(thumbnails), chosen, 0.9).tolist())


@pytest.mark.parametrize(
    ("correlation", "found"), [(0.99, True), (0.915, True), (0.885, False), (0.0, False)]
)
def test_near_duplicates_begin_at_the_similarity(correlation, found, base):
    other = correlated(base, correlation, np.random.default_rng(6))
    assert np.corrcoef(base.ravel(), other.ravel())[0, 1] == pytest.approx(correlation, abs=0.01)
    assert pairs_of(base, other) == ([[0, 1]] if found else [])


def test_what_counts_as_a_near_duplicate(base):
    # Another brightness or contrast does not hide a duplicate; a negative is none.
    assert pairs_of(base, (base * 0.4 + 10).astype(np.uint8), 255 - base) == [[0, 1]]
    # Images of different classes are not compared.
    assert pairs_of(base, base, base, base, labels=[0, 1, 0, 1]) == [[0, 2], [1, 3]]
    # Blank images resemble nothing.
    assert pairs_of(*(np.full((16, 16), value, np.uint8) for value in (0, 0, 128, 255))) == []


def noisy_copies(of: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails that are noisy copies of a few random originals, and which original each shows."""
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 256, (of, 16, 16), np.uint8)
    source = rng.integers(0, of, count)
    noise = rng.normal(0, 8, (count, 16, 16))
    return np.clip(originals[source] + noise, 0, 255).astype(np.uint8), source


@pytest.mark.parametrize("most_pairs", [0, 5, 1_000_000])
@pytest.mark.parametrize("leaf", [1, 2, 3, 7, 1024])
def test_the_sizes_of_leaves_and_lists_change_nothing(leaf, most_pairs, monkeypatch):
    thumbnails, source = noisy_copies(of=5, count=20, seed=8)
    monkeypatch.setattr(alike, "LEAF", leaf)
    monkeypatch.setattr(duplicates, "MOST_PAIRS", most_pairs)
    found = near_duplicate_pairs(thumbnails, (source >= 3).astype(np.int64), 0.9)
    group = duplicates.groups(20, found)
    for i, j in itertools.combinations(range(20), 2):
        assert (group[i] == group[j]) == (source[i] == source[j])


def blurred(count: int, seed: int) -> np.ndarray:
    """Thumbnails with few details, as photos have: many correlate more or less."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 60, (count, 2, 3))
    smooth = [cv2.resize(each, (16, 16), interpolation=cv2.INTER_CUBIC) for each in coarse]
    noisy = 128 + np.stack(smooth) + rng.normal(0, 2, (count, 16, 16))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("similarity", [0.7, 0.9, 0.98])
def test_no_pair_is_lost(similarity, monkeypatch):
    monkeypatch.setattr(alike, "LEAF", 16)
    thumbnails, labels = blurred(1500, seed=12), np.arange(1500) % 2
    correlation = np.corrcoef(thumbnails.reshape(1500, -1))
    correlation[labels[:, None] != labels] = 0
    expected = np.argwhere(np.triu(correlation > similarity, 1))
    found = near_duplicate_pairs(thumbnails, labels, similarity)
    assert len(expected) > 20
    assert (duplicates.groups(1500, found) == duplicates.groups(1500, expected)).all()
    split = np.random.default_rng(13).choice([TRAIN, VALIDATION, TEST, UNUSED], 1500)
    leaked = {name: set() for name in NO_LEAK}
    for one, other in [*expected.tolist(), *expected[:, ::-1].tolist()]:
        if split[other] == TRAIN and split[one] in leaked:
            leaked[split[one]].add(one)
    counts = {name: len(rows) for name, rows in leaked.items()}
    assert count_near_duplicates(split, thumbnails, labels, similarity) == counts


def test_photos_that_are_far_from_each_other_are_not_compared():
    thumbnails = blurred(4000, seed=14)
    search = alike.Search(thumbnails, alike.principal_axes(thumbnails), 0.99)
    compared = sum(
        len(leaf) * len(search.within_reach(leaf, rows))
        for leaf, rows in search.leaves(np.arange(4000))
    )
    assert compared < 0.5 * 4000**2 / 2


# Leaks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("abcdefghi", NO_LEAK),
        ("abadbagga", {VALIDATION: 1, TEST: 2}),  # what unused images share is no leak
        # Unreadable images have no digest, so they have nothing in common.
        (["", "b", "", "", "", "", "b", "", ""], {VALIDATION: 0, TEST: 1}),
    ],
)
def test_planted_exact_duplicates_are_counted(values, expected):
    split = np.array([TRAIN] * 2 + [VALIDATION] * 2 + [TEST] * 3 + [UNUSED] * 2)
    assert count_shared(split, np.array(list(values))) == expected


@pytest.mark.parametrize("leaf", [1, 2, 1024])
def test_planted_near_duplicates_are_counted(leaf, base, monkeypatch):
    monkeypatch.setattr(alike, "LEAF", leaf)
    rng = np.random.default_rng(10)
    split = np.array([TRAIN] * 4 + [VALIDATION] * 2 + [TEST] * 3 + [UNUSED])
    thumbnails = rng.integers(0, 256, (10, 16, 16), np.uint8)
    labels = np.zeros(10, np.int64)
    thumbnails[9] = thumbnails[8]  # unused images are no leak
    thumbnails[5] = thumbnails[6]  # nor is what validation and test share
    assert count_near_duplicates(split, thumbnails, labels, 0.9) == NO_LEAK
    thumbnails[0] = thumbnails[1] = base
    for place in (4, 7, 8):
        thumbnails[place] = correlated(base, 0.96, rng)
    assert count_near_duplicates(split, thumbnails, labels, 0.9) == {VALIDATION: 1, TEST: 2}
    assert count_near_duplicates(split, thumbnails, labels, 0.99) == NO_LEAK
    labels[7] = 1
    assert count_near_duplicates(split, thumbnails, labels, 0.9) == {VALIDATION: 1, TEST: 1}


def test_a_split_by_groups_of_duplicates_does_not_leak():
    thumbnails, source = noisy_copies(of=60, count=300, seed=11)
    labels = source % 3
    settings = Split(group="duplicates", similarity=0.9, validation=0.1, folds=10, fold=0, seed=1)
    group = duplicates.groups(300, near_duplicate_pairs(thumbnails, labels, 0.9))
    split = splits.assign(labels, group, settings)
    assert count_near_duplicates(split, thumbnails, labels, 0.9) == NO_LEAK
    at_random = splits.assign(labels, np.arange(300), settings)
    assert min(count_near_duplicates(at_random, thumbnails, labels, 0.9).values()) > 10
