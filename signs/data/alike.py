"""Which thumbnails are alike, without comparing each with each.

The correlation of two thumbnails is the cosine of two vectors of length 1, so all that correlate
more than some similarity lie within some distance of each other. No pair is lost:

1. Along the first principal axes, in which photos differ most, the vectors are cut into leaves,
   each of which fills a box. A leaf is compared with those vectors alone that are near enough to
   its box: the distance along some axes is never larger than the whole distance.
2. Of these, more axes and the length of the rest give an upper bound of the correlation (by the
   inequality of Cauchy and Schwarz). Few pairs are left to be compared in full.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Pairs = npt.NDArray[np.int64]  # (M, 2) image numbers
Thumbnails = npt.NDArray[np.uint8]  # (N, side, side), grey

AXES, BOX_AXES = 64, 8
SAMPLE = 4096  # thumbnails that tell the axes
LEAF = 256  # smaller ones fill smaller boxes; larger ones keep the matrix products efficient
BLOCK = 2048  # vectors compared with a leaf at once; bounds the memory
MANY = 8  # a gathered pair costs more than one in a matrix product
ROUNDING = 1e-3  # of a distance and of a bound, of numbers with 24 bits


def principal_axes(thumbnails: Thumbnails) -> Floats:
    """Directions, (pixels, AXES), along which some of the thumbnails differ most."""
    step = max(1, len(thumbnails) // SAMPLE)
    sample = standardise(thumbnails[::step])
    sample -= sample.sum(axis=0) / max(1, len(sample))
    axes: Any = np.linalg.eigh(sample.T @ sample)[1]
    return np.ascontiguousarray(axes[:, : -AXES - 1 : -1])


def standardise(thumbnails: Thumbnails) -> Floats:
    """Vectors of length 1 and mean 0; a blank image gives 0, so it correlates with nothing."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


class Search:
    """Finds the thumbnails that correlate more than `similarity` with some of them."""

    def __init__(self, thumbnails: Thumbnails, axes: Floats, similarity: float) -> None:
        """Cost: memory of four bytes a pixel."""
        self._vectors, self._similarity = standardise(thumbnails), similarity
        self._reach = np.sqrt(2 - 2 * similarity) + ROUNDING
        along = self._vectors @ axes
        rest = np.linalg.norm(self._vectors, axis=1) ** 2 - np.linalg.norm(along, axis=1) ** 2
        self._places = np.column_stack([along, np.sqrt(np.maximum(rest, 0))])
        self._boxed = np.ascontiguousarray(along[:, :BOX_AXES])

    def leaves(self, rows: Ints) -> Iterator[tuple[Ints, Ints]]:
        """The rows in parts that look alike, each with the rows of itself and all later parts."""
        parts = list(self._cut(rows))
        ordered, start = np.concatenate(parts), 0
        for part in parts:
            yield part, ordered[start:]
            start += len(part)

    def _cut(self, rows: Ints) -> Iterator[Ints]:
        if len(rows) <= LEAF:
            yield rows
            return
        places = self._boxed[rows]
        ordered = rows[np.argsort(places[:, places.var(axis=0).argmax()], kind="stable")]
        for half in np.array_split(ordered, 2):
            yield from self._cut(half)

    def pairs(self, leaf: Ints, rows: Ints) -> Iterator[Pairs]:
        """All pairs of a row of the leaf and one of `rows` that are alike, in parts.

        (i, i) is one, too.
        """
        rows = self.within_reach(leaf, rows)
        for start in range(0, len(rows), BLOCK):
            yield self._compare(leaf, rows[start : start + BLOCK])

    def within_reach(self, leaf: Ints, rows: Ints) -> Ints:
        """Those of `rows` that may be alike to one of the leaf."""
        places, box = self._boxed[rows], self._boxed[leaf]
        beyond = np.maximum(box.min(axis=0) - places, places - box.max(axis=0))
        beyond = np.maximum(beyond, 0)
        near: Ints = rows[np.einsum("ij,ij->i", beyond, beyond) <= self._reach**2]
        return near

    def _compare(self, leaf: Ints, rows: Ints) -> Pairs:
        bound = self._places[leaf] @ self._places[rows].T
        first, second = np.nonzero(bound > self._similarity - ROUNDING)
        if MANY * len(first) > bound.size:
            correlation = self._vectors[leaf] @ self._vectors[rows].T
            first, second = np.nonzero(correlation > self._similarity)
            return np.stack([leaf[first], rows[second]], axis=1)
        pairs = np.stack([leaf[first], rows[second]], axis=1)
        one, other = self._vectors[pairs[:, 0]], self._vectors[pairs[:, 1]]
        alike: Pairs = pairs[np.einsum("ij,ij->i", one, other) > self._similarity]
        return alike
