"""Splits: nothing that shows the same thing on two sides, whatever the set looks like."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signs.data import splits
from signs.params import Split
from signs.data.splits import SPLITS, TEST, TRAIN, UNUSED, VALIDATION


def make_settings(**changes: object) -> Split:
    values = {"group": "duplicates", "similarity": 0.9, "validation": 0.1, "folds": 10}
    return Split.model_validate({**values, "fold": 0, "seed": 1, **changes})


# A set: for each class, the sizes of its groups.
group_sizes = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=6
)
share_and_folds = st.tuples(st.floats(0.02, 0.45), st.integers(3, 20))


def build(sizes: list[list[int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of such a set, in mixed order and with gaps in the numbers of groups."""
    labels = [c for c, groups in enumerate(sizes) for size in groups for _ in range(size)]
    numbers = itertools.count(3, 2)
    group = [n for groups in sizes for size in groups for n in [next(numbers)] * size]
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.array(labels)[order], np.array(group)[order]


def of_class(sizes: list[int], **changes: object) -> dict[str, int]:
    """How many images of one class with these group sizes land where."""
    labels, group = build([sizes])
    split = splits.assign(labels, group, make_settings(**changes))
    return {name: int((split == name).sum()) for name in SPLITS}


@settings(deadline=None)
@given(sizes=group_sizes, wanted=share_and_folds, seed=st.integers(0, 2**31 - 1))
def test_no_group_is_on_two_sides(
    sizes: list[list[int]], wanted: tuple[float, int], seed: int
) -> None:
    labels, group = build(sizes)
    split = splits.assign(
        labels,
        group,
        make_settings(validation=wanted[0], folds=wanted[1], fold=wanted[1] - 1, seed=seed),
    )
    assert set(split) <= set(SPLITS)
    for number in np.unique(group):
        assert len(set(split[group == number])) == 1
    assert splits.count_shared(split, group.astype(str)) == {VALIDATION: 0, TEST: 0}


@settings(deadline=None)
@given(sizes=group_sizes, wanted=share_and_folds, seed=st.integers(0, 2**31 - 1))
def test_each_class_is_where_its_groups_allow(
    sizes: list[list[int]], wanted: tuple[float, int], seed: int
) -> None:
    labels, group = build(sizes)
    split = splits.assign(
        labels,
        group,
        make_settings(validation=wanted[0], folds=wanted[1], fold=wanted[1] - 1, seed=seed),
    )
    for label, groups in enumerate(sizes):
        present = set(split[labels == label])
        expected = {1: {TRAIN}, 2: {TRAIN, TEST}}.get(len(groups), set(SPLITS))
        assert present == expected, groups


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=60, max_size=100),
    wanted=share_and_folds,
    seed=st.integers(0, 1000),
)
def test_shares_come_close(sizes: list[int], wanted: tuple[float, int], seed: int) -> None:
    total = sum(sizes)
    found = of_class(sizes, validation=wanted[0], folds=wanted[1], seed=seed)
    # Not above the share (rounded to a whole image), below by less than the largest group.
    assert wanted[0] * total - 5.5 <= found[VALIDATION] <= max(wanted[0] * total + 0.5, 5)
    assert abs(found[TEST] - total / wanted[1]) <= 5


def test_groups_that_fit_exactly_are_taken() -> None:
    assert of_class([5] * 20) == {TRAIN: 80, VALIDATION: 10, TEST: 10}


def test_large_groups_do_not_swell_a_split() -> None:
    # Tracks of 30 images: 10 % of 210 is 21, so one track is the least.
    assert of_class([30] * 7) == {TRAIN: 150, VALIDATION: 30, TEST: 30}


@pytest.mark.parametrize("seed", range(20))
def test_a_group_that_is_most_of_its_class_trains(seed: int) -> None:
    assert of_class([1, 1, 100], seed=seed) == {TRAIN: 100, VALIDATION: 1, TEST: 1}
    assert of_class([40, 1], seed=seed) == {TRAIN: 40, VALIDATION: 0, TEST: 1}
    # What it leaves has a fold of the wanted size, not ten of one image.
    assert of_class([90, *[1] * 20], seed=seed) == {TRAIN: 90, VALIDATION: 10, TEST: 10}


def test_the_seed_alone_decides() -> None:
    labels, group = build([[1] * 60, [2] * 40])
    first = splits.assign(labels, group, make_settings(seed=7))
    assert (first == splits.assign(labels, group, make_settings(seed=7))).all()
    for other in (8, 9, 10):
        assert (first != splits.assign(labels, group, make_settings(seed=other))).any()


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=4),
    folds=st.integers(3, 8),
    seed=st.integers(0, 1000),
)
def test_the_folds_of_a_seed_test_each_group_once(
    sizes: list[list[int]], folds: int, seed: int
) -> None:
    labels, group = build(sizes)
    settings = [make_settings(folds=folds, fold=f, seed=seed) for f in range(folds)]
    tests = [splits.assign(labels, group, s) == TEST for s in settings]
    often = np.sum(tests, axis=0)
    for label, groups in enumerate(sizes):
        tested = often[labels == label]
        if len(groups) == 1:
            assert (tested == 0).all()
        elif 2 * max(groups) > sum(groups):
            # The large group never, all others at least once.
            assert (tested == 0).sum() == max(groups)
        elif len(groups) >= folds:
            assert (tested == 1).all()
        else:
            assert (tested >= 1).all()


def test_validation_comes_from_the_folds_after_the_tested_one() -> None:
    labels, group = build([[30] * 40])
    folds = [splits.assign(labels, group, make_settings(fold=f)) for f in range(10)]
    for number, split in enumerate(folds):
        assert ((split == VALIDATION) == (folds[(number + 1) % 10] == TEST)).all()


@pytest.mark.parametrize("fold", range(3))
def test_a_small_class_trains_on_the_larger_of_what_is_left(fold: int) -> None:
    found = of_class([10, 9, 1], fold=fold)
    assert found[TRAIN] >= found[VALIDATION]
    assert min(found.values()) >= 1


def test_each_fold_of_a_small_class_tests_one_group() -> None:
    for fold in range(10):
        assert of_class([30] * 7, fold=fold) == {TRAIN: 150, VALIDATION: 30, TEST: 30}


def test_folds_of_a_set_with_test_images_change_what_validates() -> None:
    labels, group = build([[30] * 40])
    fixed = np.isin(group, np.unique(group)[:10])
    splits_of = [
        splits.assign(labels, group, make_settings(folds=5, fold=f, validation=0.2), fixed)
        for f in (0, 1)
    ]
    assert ((splits_of[0] == TEST) == (splits_of[1] == TEST)).all()
    assert not ((splits_of[0] == VALIDATION) & (splits_of[1] == VALIDATION)).any()


def test_a_class_does_not_depend_on_the_others() -> None:
    labels, group = build([[1] * 60, [2] * 40])
    both = splits.assign(labels, group, make_settings())
    alone = splits.assign(labels[labels == 1], group[labels == 1], make_settings())
    assert (both[labels == 1] == alone).all()


def test_numbers_of_groups_do_not_matter() -> None:
    labels, group = build([[1, 2, 3, 4, 5], [5, 5, 5], [9]])
    dense = np.unique(group, return_inverse=True)[1]
    assert (
        splits.assign(labels, group, make_settings())
        == splits.assign(labels, dense, make_settings())
    ).all()


@settings(deadline=None)
@given(sizes=group_sizes, fixed_shares=st.integers(2, 5), seed=st.integers(0, 1000))
def test_official_test_images_stay_test_images(
    sizes: list[list[int]], fixed_shares: int, seed: int
) -> None:
    labels, group = build(sizes)
    # Whole groups here, single images of others there.
    fixed = (group % fixed_shares == 0) | (np.random.default_rng(seed).random(len(group)) < 0.05)
    split = splits.assign(labels, group, make_settings(seed=seed), fixed)
    if fixed.any():
        assert ((split == TEST) == fixed).all()
        # What shows the same as an official test image neither trains nor validates.
        touched = np.isin(group, group[fixed]) & ~fixed
        assert (split[touched] == UNUSED).all()
        assert (split[~touched] != UNUSED).all()
    for number in np.unique(group):
        assert len(set(split[group == number]) - {UNUSED}) == 1


def test_a_class_with_official_test_images_validates_with_two_groups() -> None:
    labels, group = build([[10, 1], [5]])
    labels, group = np.append(labels, [0, 1]), np.append(group, [100, 101])
    fixed = group >= 100
    split = splits.assign(labels, group, make_settings(), fixed)
    assert {name: int((split[labels == 0] == name).sum()) for name in SPLITS} == {
        TRAIN: 10,
        VALIDATION: 1,
        TEST: 1,
    }
    assert set(split[(labels == 1) & ~fixed]) == {TRAIN}


# groups


def test_groups_join_transitively() -> None:
    pairs = np.array([[0, 3], [3, 5], [2, 4]])
    group = splits.groups(7, pairs)
    together = {frozenset(np.flatnonzero(group == g).tolist()) for g in group}
    assert together == {frozenset(s) for s in ({0, 3, 5}, {2, 4}, {1}, {6})}
    assert len(np.unique(splits.groups(4, np.empty((0, 2), np.int64)))) == 4


@given(values=st.lists(st.sampled_from(["", "a", "b", "c", "aa"]), min_size=1, max_size=40))
def test_same_values_make_one_group(values: list[str]) -> None:
    array = np.array(values)
    group = splits.groups(len(values), splits.same_value_pairs(array))
    for i, j in itertools.combinations(range(len(values)), 2):
        assert (group[i] == group[j]) == (values[i] == values[j] != "")


# near duplicates


def correlated(base: np.ndarray, correlation: float, rng: np.random.Generator) -> np.ndarray:
    """A 16 x 16 image whose correlation with `base` is as wanted, but for rounding."""
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


@pytest.mark.parametrize(
    ("correlation", "found"), [(0.99, True), (0.915, True), (0.885, False), (0.0, False)]
)
def test_near_duplicates_begin_at_the_similarity(
    correlation: float, found: bool, base: np.ndarray
) -> None:
    other = correlated(base, correlation, np.random.default_rng(6))
    assert np.corrcoef(base.ravel(), other.ravel())[0, 1] == pytest.approx(correlation, abs=0.01)
    pairs = splits.near_duplicate_pairs(np.stack([base, other]), np.array([4, 4]), 0.9)
    assert pairs.tolist() == ([[0, 1]] if found else [])


def test_brightness_and_contrast_do_not_hide_a_duplicate(base: np.ndarray) -> None:
    darker = (base * 0.4 + 10).astype(np.uint8)
    assert len(splits.near_duplicate_pairs(np.stack([base, darker]), np.array([0, 0]), 0.9)) == 1
    negative = 255 - base
    assert len(splits.near_duplicate_pairs(np.stack([base, negative]), np.array([0, 0]), 0.9)) == 0


def test_classes_are_not_compared(base: np.ndarray) -> None:
    thumbnails = np.stack([base] * 4)
    pairs = splits.near_duplicate_pairs(thumbnails, np.array([0, 1, 0, 1]), 0.9)
    assert sorted(pairs.tolist()) == [[0, 2], [1, 3]]


def test_blank_images_resemble_nothing() -> None:
    blank = np.stack([np.full((16, 16), value, np.uint8) for value in (0, 0, 128, 255)])
    assert len(splits.near_duplicate_pairs(blank, np.zeros(4, int), 0.5)) == 0


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1024])
def test_blocks_do_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    originals = rng.integers(0, 256, (5, 16, 16), np.uint8)
    source = rng.integers(0, 5, 20)
    thumbnails = np.clip(originals[source] + rng.normal(0, 8, (20, 16, 16)), 0, 255).astype("u1")
    labels = (source >= 3).astype(np.int64)
    monkeypatch.setattr(splits, "BLOCK", block)
    found = {tuple(pair) for pair in splits.near_duplicate_pairs(thumbnails, labels, 0.9).tolist()}
    expected = {(i, j) for i, j in itertools.combinations(range(20), 2) if source[i] == source[j]}
    assert found == expected


def test_twins_further_apart_than_a_block(base: np.ndarray) -> None:
    rng = np.random.default_rng(9)
    count = splits.BLOCK + 10
    thumbnails = rng.integers(0, 256, (count, 16, 16), np.uint8)
    thumbnails[3] = thumbnails[count - 2] = base
    pairs = splits.near_duplicate_pairs(thumbnails, np.zeros(count, int), 0.9)
    assert pairs.tolist() == [[3, count - 2]]


# leak counters


def test_planted_twins_are_counted() -> None:
    split = np.array([TRAIN, TRAIN, VALIDATION, VALIDATION, TEST, TEST, TEST, UNUSED, UNUSED])
    clean = np.array(["a", "b", "c", "d", "e", "f", "g", "h", "i"])
    assert splits.count_shared(split, clean) == {VALIDATION: 0, TEST: 0}
    leaky = np.array(["a", "b", "a", "d", "b", "a", "g", "g", "a"])
    assert splits.count_shared(split, leaky) == {VALIDATION: 1, TEST: 2}
    # Unreadable images have no digest, and that is nothing in common.
    unread = np.array(["", "b", "", "", "", "", "b", "", ""])
    assert splits.count_shared(split, unread) == {VALIDATION: 0, TEST: 1}


@pytest.mark.parametrize("block", [1, 2, 1024])
def test_planted_near_twins_are_counted(
    block: int, base: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "BLOCK", block)
    rng = np.random.default_rng(10)
    split = np.array([TRAIN] * 4 + [VALIDATION] * 2 + [TEST] * 3 + [UNUSED])
    thumbnails = rng.integers(0, 256, (10, 16, 16), np.uint8)
    labels = np.zeros(10, np.int64)
    count = splits.count_near_duplicates
    assert count(split, thumbnails, labels, 0.9) == {VALIDATION: 0, TEST: 0}
    thumbnails[9] = thumbnails[8]  # unused images are no leak
    thumbnails[5] = thumbnails[6]  # nor is what validation and test share
    assert count(split, thumbnails, labels, 0.9) == {VALIDATION: 0, TEST: 0}
    thumbnails[0] = thumbnails[1] = base
    for place in (4, 7, 8):
        thumbnails[place] = correlated(base, 0.96, rng)
    assert count(split, thumbnails, labels, 0.9) == {VALIDATION: 1, TEST: 2}
    assert count(split, thumbnails, labels, 0.99) == {VALIDATION: 0, TEST: 0}
    labels[7] = 1
    assert count(split, thumbnails, labels, 0.9) == {VALIDATION: 1, TEST: 1}


def test_found_duplicates_never_leak() -> None:
    """From thumbnails to split and back: pairs, groups, assignment and the leak check agree."""
    rng = np.random.default_rng(11)
    originals = rng.integers(0, 256, (60, 16, 16), np.uint8)
    source = rng.integers(0, 60, 300)
    labels = source % 3
    thumbnails = np.clip(originals[source] + rng.normal(0, 10, (300, 16, 16)), 0, 255).astype("u1")
    pairs = splits.near_duplicate_pairs(thumbnails, labels, 0.9)
    group = splits.groups(300, pairs)
    split = splits.assign(labels, group, make_settings())
    assert splits.count_near_duplicates(split, thumbnails, labels, 0.9) == {VALIDATION: 0, TEST: 0}
    at_random = splits.assign(labels, np.arange(300), make_settings())
    assert min(splits.count_near_duplicates(at_random, thumbnails, labels, 0.9).values()) > 10
