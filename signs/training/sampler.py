"""Which images an epoch trains on: class balance, synthetic photos and auxiliary outliers."""

import numpy as np
import numpy.typing as npt

from signs.data.arrays import Prepared
from signs.params import Recipe
from signs.training import augment as augmentation
from signs.training.augment import augment

SAME = (11, 12, 13, 15, 17, 18, 22, 26, 30, 35)
PAIRS = ((19, 20), (33, 34), (36, 37), (38, 39))
MIRROR = np.arange(-1, 200) * 0 - 9
for one in SAME:
    MIRROR[one] = one
for one, other in PAIRS:
    MIRROR[one], MIRROR[other] = other, one


def sample_epoch(
    labels: npt.NDArray[np.int64], count: int, balance: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """(count,) indices into the classes of all training images (N,), in random order.

    Balance 0 leaves the classes as frequent as they are, 1 makes them equally frequent.
    Systematic sampling (Madow 1949): with weights w, an image appears floor(count·w) or
    ceil(count·w) times, so an epoch of as many as there are images shows each once.
    """
    weights = np.bincount(labels)[labels] ** -balance
    # A random order each epoch, or neighbours in the file would always compete.
    order = rng.permutation(len(labels))
    cumulative = np.cumsum(weights[order])
    points = (np.arange(count) + rng.random()) / count * cumulative[-1]
    chosen = order[np.minimum(np.searchsorted(cumulative, points), len(order) - 1)]
    return rng.permutation(chosen)


class EpochSampler:
    """The images of each epoch; in a resumed training, too, seed and epoch alone decide them."""

    def __init__(self, data: Prepared, recipe: Recipe, seed: int) -> None:
        self._data, self._recipe, self._seed = data, recipe, seed
        self._rows = data.rows("train")
        self._labels = data.samples["label"].to_numpy()[self._rows]
        classes = len(data.labels)
        # One-hot; outliers have the label -1, so they get the last row: all classes alike.
        self._targets = np.vstack([np.eye(classes), np.full(classes, 1 / classes)]).astype("f4")
        self._count = recipe.steps_per_epoch * recipe.batch_size
        # With templates of few classes, the full share would swamp the epoch with those.
        share = len(np.unique(data.synthetic_labels)) / len(data.labels)
        self._synthetic_count = round(recipe.synthetic_share * share * self._count)
        # With no synthetic photos of the classes, outliers would teach what "synthetic" looks like.
        share = 1 if data.dataset == "synthetic" else share
        outliers = recipe.auxiliary_outlier_share * share if len(data.auxiliary_outliers) else 0
        self._outlier_count = round(outliers * self._count)

    def sample(self, epoch: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Augmented images, uint8 (n, size, size, channels), and targets (n, classes)."""
        rng = np.random.default_rng([self._seed, epoch])
        data, balance = self._data, self._recipe.balance
        count = self._count - self._synthetic_count - self._outlier_count
        chosen = sample_epoch(self._labels, count, balance, rng)
        images, labels = [data.images[self._rows[chosen]]], [self._labels[chosen]]
        if self._synthetic_count:
            chosen = sample_epoch(data.synthetic_labels, self._synthetic_count, balance, rng)
            images.append(data.synthetic_images[chosen])
            labels.append(data.synthetic_labels[chosen])
        if self._outlier_count:
            chosen = rng.integers(len(data.auxiliary_outliers), size=self._outlier_count)
            images.append(data.auxiliary_outliers[chosen])
            labels.append(np.full(self._outlier_count, -1))
        order = rng.permutation(self._count)
        wanted = set(self._recipe.experiment)
        augmentation.WANTED = wanted
        chosen_images, chosen_labels = np.concatenate(images)[order], np.concatenate(labels)[order]
        if "mirror" in wanted:
            there = (chosen_labels < 0) | (MIRROR[chosen_labels] >= 0)
            flip = np.flatnonzero(there & (rng.random(self._count) < 0.5))
            chosen_images[flip] = chosen_images[flip, :, ::-1]
            known = flip[chosen_labels[flip] >= 0]
            chosen_labels[known] = MIRROR[chosen_labels[known]]
        mixed = augment(chosen_images, self._recipe.augment, rng)
        targets = self._targets[chosen_labels]
        if "mixup" in wanted:
            other = rng.permutation(self._count)
            share = np.where(rng.random(self._count) < 0.5, rng.beta(0.4, 0.4, self._count), 1)
            share = share.astype(np.float32)
            wide = share[:, None, None, None]
            mixed = np.rint(wide * mixed + (1 - wide) * mixed[other]).astype(np.uint8)
            targets = share[:, None] * targets + (1 - share[:, None]) * targets[other]
        if "cutmix" in wanted:
            other = rng.permutation(self._count)
            source, size, before = mixed.copy(), mixed.shape[1], targets.copy()
            for row in np.flatnonzero(rng.random(self._count) < 0.3):
                side = round(size * np.sqrt(rng.uniform(0.05, 0.5)))
                y, x = rng.integers(0, size - side + 1, 2)
                mixed[row, y : y + side, x : x + side] = source[
                    other[row], y : y + side, x : x + side
                ]
                share = side * side / size / size
                targets[row] = (1 - share) * before[row] + share * before[other[row]]
        return mixed, targets
