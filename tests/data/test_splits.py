"""Splits: photos of one group never stand on two sides, whatever the data set looks like."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signs.data.splits import SPLITS, TEST, TRAIN, UNUSED, VALIDATION, assign
from signs.params import Split

Sizes = list[list[int]]  # for each class, the sizes of its groups


def make_settings(**changes: object) -> Split:
    values = {"group": "duplicates", "similarity": 0.9, "validation": 0.1, "folds": 10}
    return Split.model_validate({**values, "fold": 0, "seed": 1, **changes})


def last_fold(validation: float, folds: int, seed: int) -> Split:
    return make_settings(validation=validation, folds=folds, fold=folds - 1, seed=seed)


group_sizes = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=6
)
split_settings = st.builds(
    last_fold, st.floats(0.02, 0.45), st.integers(3, 20), st.integers(0, 2**31 - 1)
)


def build(sizes: Sizes, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of such a data set, in mixed order, with gaps in the group numbers."""
    labels = [c for c, groups in enumerate(sizes) for size in groups for _ in range(size)]
    numbers = itertools.count(3, 2)
    group = [n for groups in sizes for size in groups for n in [next(numbers)] * size]
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.array(labels)[order], np.array(group)[order]


def of_class(sizes: list[int], **changes: object) -> dict[str, int]:
    """How many images of one class with these group sizes each split gets."""
    split = assign(*build([sizes]), make_settings(**changes))
    return {name: int((split == name).sum()) for name in SPLITS}


@settings(deadline=None)
@given(sizes=group_sizes, chosen=split_settings)
def test_each_group_is_in_one_split_and_each_class_in_as_many_as_its_groups_allow(sizes, chosen):
    labels, group = build(sizes)
    split = assign(labels, group, chosen)
    for number in np.unique(group):
        assert len(set(split[group == number])) == 1
    for label, groups in enumerate(sizes):
        expected = {1: {TRAIN}, 2: {TRAIN, TEST}}.get(len(groups), set(SPLITS))
        assert set(split[labels == label]) == expected, groups


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=60, max_size=100), chosen=split_settings)
def test_shares_come_close_to_the_wanted_ones(sizes, chosen):
    split = assign(*build([sizes]), chosen)
    wanted = chosen.validation * sum(sizes)
    # Not above the share (rounded to a whole image), below by less than the largest group.
    assert wanted - 5.5 <= (split == VALIDATION).sum() <= max(wanted + 0.5, 5)
    assert abs((split == TEST).sum() - sum(sizes) / chosen.folds) <= 5


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([5] * 20, (80, 10, 10)),  # groups that fit exactly
        ([30] * 7, (150, 30, 30)),  # 10 % of 210 images is 21: one track is the least
        # A group that is most of its class trains.
        ([1, 1, 100], (100, 1, 1)),
        ([40, 1], (40, 0, 1)),
        # The rest makes a fold of the wanted size, not ten of one image.
        ([90, *[1] * 20], (90, 10, 10)),
    ],
)
@pytest.mark.parametrize("place", range(10))
def test_sizes_of_the_splits(sizes, expected, place):
    for changes in ({"seed": place}, {"fold": place}):
        assert tuple(of_class(sizes, **changes).values()) == expected


def test_the_seed_alone_decides():
    data = build([[1] * 60, [2] * 40])
    first = assign(*data, make_settings(seed=7))
    assert (first == assign(*data, make_settings(seed=7))).all()
    for other in (8, 9, 10):
        assert (first != assign(*data, make_settings(seed=other))).any()


def test_a_small_class_trains_with_the_larger_remaining_group():
    for fold in range(3):
        found = of_class([10, 9, 1], fold=fold)
        assert found[TRAIN] >= found[VALIDATION]
        assert min(found.values()) >= 1


def test_neither_other_classes_nor_group_numbers_matter():
    labels, group = build([[1] * 60, [2] * 40, [1, 2, 3, 4, 5]])
    all_classes = assign(labels, group, make_settings())
    dense = np.unique(group, return_inverse=True)[1]
    assert (assign(labels, dense, make_settings()) == all_classes).all()
    alone = labels == 1
    assert (assign(labels[alone], group[alone], make_settings()) == all_classes[alone]).all()


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=4),
    folds=st.integers(3, 8),
    seed=st.integers(0, 1000),
)
def test_the_folds_of_a_seed_test_each_group_once(sizes, folds, seed):
    labels, group = build(sizes)
    chosen = [make_settings(folds=folds, fold=fold, seed=seed) for fold in range(folds)]
    times = np.sum([assign(labels, group, one) == TEST for one in chosen], axis=0)
    for label, groups in enumerate(sizes):
        tested = times[labels == label]
        if len(groups) == 1:
            assert (tested == 0).all()
        elif 2 * max(groups) > sum(groups):
            # The large group never, all others at least once.
            assert (tested == 0).sum() == max(groups)
        elif len(groups) >= folds:
            assert (tested == 1).all()
        else:
            assert (tested >= 1).all()


def test_validation_is_the_fold_after_the_tested_one():
    data = build([[30] * 40])
    folds = [assign(*data, make_settings(fold=fold)) for fold in range(10)]
    for number, split in enumerate(folds):
        assert ((split == VALIDATION) == (folds[(number + 1) % 10] == TEST)).all()


# Data sets with official test images


@settings(deadline=None)
@given(sizes=group_sizes, every=st.integers(2, 5), seed=st.integers(0, 1000))
def test_official_test_images_stay_test_images(sizes, every, seed):
    labels, group = build(sizes)
    # Whole groups here, single images of others there.
    fixed = (group % every == 0) | (np.random.default_rng(seed).random(len(group)) < 0.05)
    split = assign(labels, group, make_settings(seed=seed), np.where(fixed, TEST, ""))
    if fixed.any():
        assert ((split == TEST) == fixed).all()
        # What shows the same as an official test image neither trains nor validates.
        touched = np.isin(group, group[fixed]) & ~fixed
        assert (split[touched] == UNUSED).all()
        assert (split[~touched] != UNUSED).all()
    for number in np.unique(group):
        assert len(set(split[group == number]) - {UNUSED}) == 1


def test_a_class_with_official_test_images_needs_two_groups_to_validate():
    labels, group = build([[10, 1], [5]])
    labels, group = np.append(labels, [0, 1]), np.append(group, [100, 101])
    split = assign(labels, group, make_settings(), np.where(group >= 100, TEST, ""))
    assert [(split[labels == 0] == name).sum() for name in SPLITS] == [10, 1, 1]
    assert [(split[labels == 1] == name).sum() for name in SPLITS] == [5, 0, 1]


def test_the_fold_chooses_what_validates_beside_official_test_images():
    labels, group = build([[30] * 40])
    fixed = np.isin(group, np.unique(group)[:10])
    chosen = [make_settings(folds=5, fold=fold, validation=0.2) for fold in (0, 1)]
    first, second = (assign(labels, group, one, np.where(fixed, TEST, "")) for one in chosen)
    assert ((first == TEST) == (second == TEST)).all()
    assert not ((first == VALIDATION) & (second == VALIDATION)).any()


# Data sets that are split already


@settings(deadline=None)
@given(sizes=group_sizes, seed=st.integers(0, 1000), given_parts=st.sets(st.sampled_from(SPLITS)))
def test_a_given_split_is_kept_and_what_it_lacks_is_dealt(sizes, seed, given_parts):
    labels, group = build(sizes)
    rng = np.random.default_rng(seed)
    fixed = rng.choice(sorted({TRAIN, *given_parts}), len(labels))
    split = assign(labels, group, make_settings(seed=seed), fixed)
    for part in (VALIDATION, TEST):
        assert (split[fixed == part] == part).all()
        if (fixed == part).any():
            assert (fixed[split == part] == part).all()
    # What is dealt shares no group with what trains.
    dealt = (fixed == TRAIN) & (split != TRAIN)
    assert not set(group[dealt]) & set(group[split == TRAIN])
