"""Leak-free splits: photos that show the same thing never end up on two sides.

A group is a set of images that must stay together: exact duplicates (same decoded
pixels), near-duplicates (thumbnails that correlate) and tracks (frames of one physical
sign, where the set names them), joined transitively.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from signs.params import Split

TRAIN, VALIDATION, TEST, UNUSED = "train", "validation", "test", "unused"
SPLITS = (TRAIN, VALIDATION, TEST)

Ints = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]
Pairs = npt.NDArray[np.int64]

BLOCK = 1024


def same_value_pairs(values: Strings) -> Pairs:
    """Pairs (M, 2) that chain all images with the same non-empty value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    same = (ordered[1:] == ordered[:-1]) & (ordered[1:] != "")
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def near_duplicate_pairs(
    thumbnails: npt.NDArray[np.uint8], labels: Ints, similarity: float
) -> Pairs:
    """Pairs (M, 2) of images of one class whose thumbnails correlate above `similarity`.

    Args:
        thumbnails: uint8 (N, side, side), grey.
        labels: (N,); images of different classes are not compared, as 60 and 80 km/h
            signs look alike without being the same photo.
        similarity: Pearson correlation, 0 to 1.
    """
    pairs = [np.empty((0, 2), np.int64)]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        for first, second in _correlated(thumbnails[rows], thumbnails[rows], similarity):
            above = first < second
            pairs.append(np.stack([rows[first[above]], rows[second[above]]], axis=1))
    return np.concatenate(pairs)


def _correlated(
    left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8], similarity: float
) -> Iterator[tuple[Ints, Ints]]:
    """Index pairs whose correlation exceeds `similarity`, in blocks that bound the memory."""
    for start in range(0, len(left), BLOCK):
        rows = _standardise(left[start : start + BLOCK])
        for offset in range(0, len(right), BLOCK):
            columns = _standardise(right[offset : offset + BLOCK])
            first, second = np.nonzero(rows @ columns.T > similarity)
            yield first + start, second + offset


def _standardise(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    # A blank image correlates with nothing.
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    result: npt.NDArray[np.float32] = flat / np.maximum(norms, 1e-6)
    return result


def groups(count: int, pairs: Pairs) -> Ints:
    """Number the connected components: (count,) group of each image."""
    # Not above: each worker process of a stage imports what the stage imports.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    components: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return components


def assign(
    labels: Ints, group: Ints, settings: Split, fixed_test: npt.NDArray[np.bool_] | None = None
) -> Strings:
    """Divide images into train, validation and test, class by class, whole groups at a time.

    A class with one group only trains; with two it trains and tests; with three or more it
    is in all splits. Each class's share comes as close to the wanted one as its groups allow
    without exceeding it (but at least one group).

    The folds of one seed go around the groups of each class in steps of the share that is
    tested (of validation, if the set has test images of its own). They test different groups where
    groups are many and of one size; a small or uneven class tests some groups in several folds.

    Args:
        labels: (N,) class of each image.
        group: (N,) group of each image.
        settings: shares, fold and seed.
        fixed_test: (N,) which images are the set's own test images; no others test then.

    Returns:
        (N,) "train", "validation", "test", or "unused" for the rest of a group that the
        set's own test images belong to.
    """
    split = np.full(len(labels), TRAIN, dtype="<U10")
    free = np.ones(len(labels), bool)
    wanted = {TEST: settings.test, VALIDATION: settings.validation}
    if fixed_test is not None and fixed_test.any():
        split[fixed_test] = TEST
        tested = np.isin(group, group[fixed_test])
        split[tested & ~fixed_test] = UNUSED
        free = ~tested
        wanted = {VALIDATION: settings.validation}
    # A group with several classes (one photo filed twice) counts for its first image's class.
    _, first_of_group, number = np.unique(group, return_index=True, return_inverse=True)
    class_of_group = labels[first_of_group][number]
    for label in np.unique(labels):
        rng = np.random.default_rng([settings.seed, int(label)])
        ids = np.unique(group[free & (class_of_group == label)])
        sizes = dict(zip(ids.tolist(), [int((group == i).sum()) for i in ids], strict=True))
        total = sum(sizes.values())
        start = round(settings.fold * next(iter(wanted.values())) * total)
        left = _turn(rng.permutation(ids).tolist(), sizes, start)
        for done, (name, share) in enumerate(wanted.items()):
            if len(left) < 2:
                break
            # Small groups must not all go to the first split: each later one needs a group, too.
            most = max(1, len(left) - len(wanted) + done)
            chosen = _choose(left, sizes, max(1, round(share * total)))[:most]
            split[np.isin(group, chosen) & free] = name
            left = [i for i in left if i not in chosen]
    return split


def _turn(order: list[int], sizes: dict[int, int], start: int) -> list[int]:
    """The same circle of groups, from the first one that has `start` images before it."""
    before = 0
    for place, group in enumerate(order):
        if before >= start:
            return order[place:] + order[:place]
        before += sizes[group]
    return order


def _choose(left: list[int], sizes: dict[int, int], target: int) -> list[int]:
    """Groups in the given order that fit into `target` images; the smallest if none does."""
    chosen: list[int] = []
    taken = 0
    for group in left[:-1]:
        if taken + sizes[group] <= target:
            chosen.append(group)
            taken += sizes[group]
    return chosen or [min(left, key=lambda i: sizes[i])]


def count_twins(split: Strings, values: Strings) -> dict[str, int]:
    """How many validation and test images share a non-empty value with a training image.

    Looks at the finished split alone, not at how it was made: this is the leak check.
    """
    training = np.unique(values[(split == TRAIN) & (values != "")])
    return {
        name: int(np.isin(values[split == name], training).sum()) for name in (VALIDATION, TEST)
    }


def count_near_twins(
    split: Strings, thumbnails: npt.NDArray[np.uint8], labels: Ints, similarity: float
) -> dict[str, int]:
    """How many validation and test images have a near-duplicate of their class in training."""
    counts = {}
    # The same product, summed in other blocks than when grouping, differs in its last digits.
    similarity += 1e-5
    for name in (VALIDATION, TEST):
        found = 0
        for label in np.unique(labels):
            held_out = thumbnails[(split == name) & (labels == label)]
            training = thumbnails[(split == TRAIN) & (labels == label)]
            matched = [first for first, _ in _correlated(held_out, training, similarity)]
            found += len(np.unique(np.concatenate(matched))) if matched else 0
        counts[name] = found
    return counts
