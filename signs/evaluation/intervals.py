"""95 % intervals of a share of photos, such as an accuracy."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

RESAMPLES = 10_000
FEW_GROUPS = 10


def wilson(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion of independent trials; (0, 1) for none.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (JASA 22,
    1927): right also near 0 and 1.
    """
    if total == 0:
        return 0.0, 1.0
    low, high = binomtest(successes, total).proportion_ci(method="wilson")
    return float(low), float(high)


def group_numbers(group: pd.Series) -> Ints:
    """A number for each photo's group, from 0; a photo whose group is "" is a group of its own."""
    names = [name or f"alone {row}" for row, name in enumerate(group.astype(str))]
    return np.unique(names, return_inverse=True)[1]


def by_group(correct: Bools, group: pd.Series) -> tuple[float, float]:
    """95 % interval of the share of correct photos (N,), of which some show the same sign.

    Photos of one group tend to be right or wrong together, so `bootstrap` draws groups. It fails
    with few groups (here: fewer than `FEW_GROUPS`), or if all have the same accuracy. Then this is
    Wilson's interval for as many trials as there are groups. Else it contains the interval of
    independent photos.
    """
    number = group_numbers(group)
    photos, right = np.bincount(number), np.bincount(number, weights=correct)
    if len(photos) < FEW_GROUPS or np.ptp(right / photos) == 0:
        return wilson(round(len(photos) * correct.mean()) if len(correct) else 0, len(photos))
    by_photo = wilson(int(correct.sum()), len(correct))
    lows, highs = zip(by_photo, bootstrap(right, photos), strict=True)
    return min(lows), max(highs)


def bootstrap(right: npt.ArrayLike, photos: npt.ArrayLike) -> tuple[float, float]:
    """95 % interval of sum(right) / sum(photos), each (G,): groups are drawn with replacement.

    The cluster bootstrap's percentile interval: C. A. Field and A. H. Welsh, "Bootstrapping
    clustered data" (Journal of the Royal Statistical Society B 69, 2007).
    """
    # Groups that are alike are drawn as one kind, which needs far less memory.
    kinds, count = np.unique(np.stack([right, photos], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(count.sum(), count / count.sum(), RESAMPLES)
    low, high = np.percentile(np.divide(*(drawn @ kinds).T), [2.5, 97.5])
    return float(low), float(high)
