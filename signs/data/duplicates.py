"""Which photos show the same thing, and which of them stand on two sides of a split.

A group is a set of images that must stay together: exact duplicates (same decoded pixels),
near-duplicates (thumbnails that correlate) and tracks (frames of one physical sign, if the data
set names them), joined transitively.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from signs.data.alike import Pairs, Search, Thumbnails, principal_axes
from signs.data.splits import TEST, TRAIN, UNUSED, VALIDATION, Bools, Ints, Strings

# Pairs that are held at once. A camera that does not move gives more, nearly all of which join what
# is joined already.
MOST_PAIRS = 4_000_000


def same_value_pairs(values: Strings) -> Pairs:
    """Pairs that chain all images with the same non-empty value."""
    rows = np.flatnonzero(values != "")
    return rows[_chain(values[rows])]


def _chain(values: npt.NDArray[Any]) -> Pairs:
    order = np.argsort(values, kind="stable")
    same = values[order[1:]] == values[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def near_duplicate_pairs(thumbnails: Thumbnails, labels: Ints, similarity: float) -> Pairs:
    """Pairs that chain all images of one class that are near-duplicates, over whatever others.

    Near-duplicates are two images whose thumbnails' Pearson correlation exceeds `similarity`.
    Images of different classes are not compared: 60 and 80 km/h signs look alike without being
    the same photo.
    """
    joined, axes = _Joined(len(labels)), principal_axes(thumbnails)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        search = Search(thumbnails[members], axes, similarity)
        for leaf, rows in search.leaves(np.arange(len(members))):
            for pairs in search.pairs(leaf, rows[joined.may_join(members[leaf], members[rows])]):
                joined.add(members[pairs])
    return joined.pairs()


class _Joined:
    """Groups that pairs join, with as few pairs as tell them."""

    def __init__(self, count: int) -> None:
        self._group, self._found, self._new = np.arange(count), [np.empty((0, 2), np.int64)], 0

    def may_join(self, leaf: Ints, rows: Ints) -> Bools:
        """Which rows are not in the one group that the leaf is, if it is one."""
        first, *others = np.unique(self._group[leaf])
        may: Bools = (self._group[rows] != first) | bool(others)
        return may

    def add(self, pairs: Pairs) -> None:
        self._found.append(pairs)
        self._new += len(pairs)
        if self._new > MOST_PAIRS:
            self._found, self._new = [self.pairs()], 0

    def pairs(self) -> Pairs:
        self._group = groups(len(self._group), np.concatenate(self._found))
        return _chain(self._group)


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
    leaked, axes = np.zeros(len(labels), bool), principal_axes(thumbnails)
    for label in np.unique(labels[split == TRAIN]):
        members = np.flatnonzero((labels == label) & (split != UNUSED))
        # The same product, summed in other blocks than when grouping, differs in its last digits.
        search = Search(thumbnails[members], axes, similarity + 1e-5)
        training = split[members] == TRAIN
        for leaf, _ in search.leaves(np.flatnonzero(training)):
            held_out = np.flatnonzero(~training & ~leaked[members])
            for pairs in search.pairs(leaf, held_out):
                leaked[members[pairs[:, 1]]] = True
    return {name: int((split[leaked] == name).sum()) for name in (VALIDATION, TEST)}
