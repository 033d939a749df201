"""Leak-free splits: whole groups go to training, validation or test, never to two of them."""

import numpy as np
import numpy.typing as npt

from signs.params import Split

TRAIN, VALIDATION, TEST, UNUSED = "train", "validation", "test", "unused"
SPLITS = (TRAIN, VALIDATION, TEST)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Strings = npt.NDArray[np.str_]


def assign(labels: Ints, group: Ints, settings: Split, fixed: Strings | None = None) -> Strings:
    """Divide images into train, validation and test, class by class, whole groups at a time.

    The seed deals the groups of a class into folds of similar size. Fold number `fold` is the
    test set, and the next groups are the validation set, up to its share. So the folds of one
    seed test each group once (stratified group k-fold cross-validation), with two exceptions:
    a group with more than half of its class's images always trains, and a class with fewer
    groups than folds has one fold per group. Fold numbers beyond a class's last fold start again
    at its first. A class with one group only trains; with two groups it trains and tests.

    All arrays are (N,). `fixed` is the split that the set itself gives, "" where it gives none. It
    is kept, with what it leaks. Images without one are "unused" if their group has a given test or
    validation image. Test or validation images that the set lacks are dealt from the others.
    """
    fixed = np.full(len(labels), "", "<U10") if fixed is None else fixed
    held_out = np.isin(fixed, [VALIDATION, TEST])
    split = np.where(fixed == "", TRAIN, fixed).astype("<U10")
    touched = np.isin(group, group[held_out]) & (fixed == "")
    split[touched] = UNUSED
    free = ~held_out & ~touched
    needs_test, needs_validation = (not (fixed == part).any() for part in (TEST, VALIDATION))
    if not (needs_test or needs_validation):
        return split
    # A group with several classes (one photo filed twice) counts for its first image's class.
    _, first_of_group, number = np.unique(group, return_index=True, return_inverse=True)
    class_of_group = labels[first_of_group][number]
    for label in np.unique(labels):
        rng = np.random.default_rng([settings.seed, int(label)])
        ids, counts = np.unique(group[free & (class_of_group == label)], return_counts=True)
        sizes = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        tested, validated = _divide_class(sizes, settings, needs_test, rng)
        split[np.isin(group, tested) & free] = TEST
        if needs_validation:
            split[np.isin(group, validated) & free] = VALIDATION
    return split


def _divide_class(
    sizes: dict[int, int], settings: Split, needs_test: bool, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """The groups of one class that test, and those that validate; the others train."""
    total = sum(sizes.values())
    movable = [i for i in rng.permutation(list(sizes)).tolist() if 2 * sizes[i] <= total]
    always_training = len(sizes) - len(movable)
    if not movable:
        return [], []
    sides = (2 if needs_test else 1) + (0 if always_training else 1)
    count = round(settings.folds * sum(sizes[i] for i in movable) / total)
    folds = _deal(movable, sizes, min(max(count, sides), len(movable)))
    rng.shuffle(folds)
    turn = settings.fold % len(folds)
    folds = folds[turn:] + folds[:turn]
    tested = folds.pop(0) if needs_test else []
    left = [i for fold in folds for i in fold]
    if len(left) + always_training < 2:
        return tested, []
    # Not the smallest group may be what is left for training.
    kept = None if always_training else max(reversed(left), key=sizes.__getitem__)
    candidates = [i for i in left if i != kept]
    validated: list[int] = []
    taken = 0
    for group in candidates:
        if taken + sizes[group] <= settings.validation * total + 0.5:
            validated.append(group)
            taken += sizes[group]
    if not validated:
        next_fold = [i for i in folds[0] if i != kept]
        validated = [min(next_fold or candidates, key=sizes.__getitem__)]
    return tested, validated


def _deal(order: list[int], sizes: dict[int, int], count: int) -> list[list[int]]:
    """The groups in `count` folds: each, largest first, goes to the fold that is smallest then."""
    folds: list[list[int]] = [[] for _ in range(count)]
    images = [0] * count
    for group in sorted(order, key=lambda i: -sizes[i]):
        smallest = images.index(min(images))
        folds[smallest].append(group)
        images[smallest] += sizes[group]
    return folds
