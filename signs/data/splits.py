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

    The groups of a class are dealt into folds, by the seed, of a size as like as the groups
    allow. The fold with number `fold` is tested, the groups after it validate up to their share.
    So the folds of one seed test each group once (stratified group k-fold cross-validation), but
    for two kinds of classes. A group with more than half of its class's images always trains,
    and the others then make fewer folds of the usual size. And where groups are fewer than
    folds, there are as many folds as groups. Numbers beyond a class's last fold begin again with
    its first. A class with one group only trains; with two it trains and tests.

    Args:
        labels: (N,) class of each image.
        group: (N,) group of each image.
        settings: number of folds, the one to test, share of validation, seed.
        fixed_test: (N,) which images are the set's own test images; no others test then, and
            validation begins with the chosen fold.

    Returns:
        (N,) "train", "validation", "test", or "unused" for the rest of a group that the
        set's own test images belong to.
    """
    fixed = np.zeros(len(labels), bool) if fixed_test is None else fixed_test
    own_test = bool(fixed.any())
    free = ~np.isin(group, group[fixed])
    split = np.where(free, TRAIN, UNUSED).astype("<U10")
    split[fixed] = TEST
    # A group with several classes (one photo filed twice) counts for its first image's class.
    _, first_of_group, number = np.unique(group, return_index=True, return_inverse=True)
    class_of_group = labels[first_of_group][number]
    for label in np.unique(labels):
        rng = np.random.default_rng([settings.seed, int(label)])
        ids, counts = np.unique(group[free & (class_of_group == label)], return_counts=True)
        sizes = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        total = sum(sizes.values())
        movable = [i for i in rng.permutation(ids).tolist() if 2 * sizes[i] <= total]
        always_training = len(ids) - len(movable)
        if not movable:
            continue
        sides = (1 if own_test else 2) + (0 if always_training else 1)
        wanted = round(settings.folds * sum(sizes[i] for i in movable) / total)
        folds = _deal(movable, sizes, min(max(wanted, sides), len(movable)))
        rng.shuffle(folds)
        turn = settings.fold % len(folds)
        folds = folds[turn:] + folds[:turn]
        if not own_test:
            split[np.isin(group, folds.pop(0)) & free] = TEST
        left = [i for fold in folds for i in fold]
        if len(left) + always_training > 1:
            # Not the smallest group may be what is left for training.
            kept = None if always_training else max(reversed(left), key=sizes.__getitem__)
            candidates = [i for i in left if i != kept]
            chosen = _choose(candidates, sizes, settings.validation * total)
            next_fold = [i for i in folds[0] if i != kept]
            chosen = chosen or [min(next_fold or candidates, key=sizes.__getitem__)]
            split[np.isin(group, chosen) & free] = VALIDATION
    return split


def _deal(order: list[int], sizes: dict[int, int], count: int) -> list[list[int]]:
    """The groups in `count` folds, large ones first, each to the fold that is smallest by then."""
    folds: list[list[int]] = [[] for _ in range(count)]
    images = [0] * count
    for group in sorted(order, key=lambda i: -sizes[i]):
        smallest = images.index(min(images))
        folds[smallest].append(group)
        images[smallest] += sizes[group]
    return folds


def _choose(order: list[int], sizes: dict[int, int], target: float) -> list[int]:
    """Groups in the given order that fit into `target` images."""
    chosen: list[int] = []
    taken = 0
    for group in order:
        if taken + sizes[group] <= target + 0.5:
            chosen.append(group)
            taken += sizes[group]
    return chosen


def count_shared(split: Strings, values: Strings) -> dict[str, int]:
    """How many validation and test images share a non-empty value with a training image.

    Looks at the finished split alone, not at how it was made: this is the leak check.
    """
    training = np.unique(values[(split == TRAIN) & (values != "")])
    return {
        name: int(np.isin(values[split == name], training).sum()) for name in (VALIDATION, TEST)
    }


def count_near_duplicates(
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
