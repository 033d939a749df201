"""Which photos show the same thing, and which of them stand on two sides of a split.

A group is a set of images that must stay together: exact duplicates (same decoded pixels),
near-duplicates (thumbnails that correlate) and tracks (frames of one physical sign, if the data
set names them), joined transitively.
"""

from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

from signs.data.splits import TEST, TRAIN, UNUSED, VALIDATION, Ints, Strings

Pairs = npt.NDArray[np.int64]  # (M, 2) image numbers
Thumbnails = npt.NDArray[np.uint8]  # (N, side, side), grey

BLOCK = 1024


def same_value_pairs(values: Strings) -> Pairs:
    """Pairs that chain all images with the same non-empty value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    same = (ordered[1:] == ordered[:-1]) & (ordered[1:] != "")
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def near_duplicate_pairs(thumbnails: Thumbnails, labels: Ints, similarity: float) -> Pairs:
    """Pairs of images of one class whose thumbnails' Pearson correlation exceeds `similarity`.

    Images of different classes are not compared: 60 and 80 km/h signs look alike without being
    the same photo.
    """
    pairs = [np.empty((0, 2), np.int64)]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # Blocks bound the memory.
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        for left, right in combinations_with_replacement(blocks, 2):
            correlation = _standardise(thumbnails[left]) @ _standardise(thumbnails[right]).T
            first, second = np.nonzero(correlation > similarity)
            found = np.stack([left[first], right[second]], axis=1)
            pairs.append(found[found[:, 0] < found[:, 1]])
    return np.concatenate(pairs)


def _standardise(thumbnails: Thumbnails) -> npt.NDArray[np.float32]:
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    # A blank image correlates with nothing.
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


def groups(count: int, pairs: Pairs) -> Ints:
    """Number the connected components: (count,) group of each image."""
    # Not above: each worker process of a stage imports what the stage imports.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), pairs.T), (count, count))
    components: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return components


def count_shared(split: Strings, values: Strings) -> dict[str, int]:
    """How many validation and test images share a non-empty value with a training image.

    Looks at the finished split alone, not at how it was made: this is the leak check.
    """
    training = np.unique(values[(split == TRAIN) & (values != "")])
    return {
        name: int(np.isin(values[split == name], training).sum()) for name in (VALIDATION, TEST)
    }


def count_near_duplicates(
    split: Strings, thumbnails: Thumbnails, labels: Ints, similarity: float
) -> dict[str, int]:
    """How many validation and test images have a near-duplicate of their class in training."""
    used = np.flatnonzero(split != UNUSED)
    # The same product, summed in other blocks than when grouping, differs in its last digits.
    pairs = used[near_duplicate_pairs(thumbnails[used], labels[used], similarity + 1e-5)]
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    leaked = np.unique(pairs[split[pairs[:, 1]] == TRAIN, 0])
    return {name: int((split[leaked] == name).sum()) for name in (VALIDATION, TEST)}
