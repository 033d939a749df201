"""The lines of the gate's table: what was measured of two classifiers, and whether that is allowed.

Nothing is measured here. Shares are 0 to 1. Without a champion, only absolute limits count.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import permutation_test

from signs import params
from signs.evaluation import calibration, intervals

Floats = npt.NDArray[np.floating]

HIGHER, LOWER = "higher", "lower"
LEAKS = ("exact", "group", "near")
FLIPS = 10_000


class Check(NamedTuple):
    """One condition: what was compared, what was found, what is allowed, whether it holds."""

    name: str
    compared_on: str
    challenger: float | None = None  # None: not measured
    champion: float | None = None
    better: str = ""
    allowed: str = ""
    passed: bool = True


def of_files(audit: dict[str, Any], megabytes: float, settings: params.Params) -> list[Check]:
    """Leaks and unusable files, as audit.json has them, and the size of model.onnx."""
    leaks, files = sum(audit["leaks"][kind] for kind in LEAKS), f"{audit['files']:,} files"
    unusable, limit = audit["unusable"] / audit["files"], settings.preprocess.max_problems
    return [
        _limited("no leak", "test and validation photos", [leaks], LOWER, 0),
        _limited("unusable files", files, [unusable], LOWER, limit),
        _limited("size, MB", "model.onnx", [megabytes], LOWER, settings.gate.max_model_mb),
    ]


def of_predictions(
    now: pd.DataFrame, before: pd.DataFrame | None, names: dict[int, str], limits: params.Gate
) -> list[Check]:
    """Accuracy, recall, calibration and acceptance on the test photos.

    One row a photo, the same ones in both tables: class_id, group, correct, confidence, accepted.
    """
    photos, tables = _count(now), [now] if before is None else [now, before]
    ece, precision = (list(map(measure, tables)) for measure in (_ece, _accepted_precision))
    least = limits.min_accepted_precision
    checks = [
        _limited("calibration (ECE)", photos, ece, LOWER, limits.max_ece),
        _limited("precision of the accepted", photos, precision, HIGHER, least),
    ]
    if before is None:
        return checks
    share = [table["accepted"].mean() for table in tables]
    accepted = _compared("share accepted", photos, share, HIGHER, limits.max_accepted_drop)
    return [_accuracy(now, before, limits), _recall(now, before, names, limits), *checks, accepted]


def of_ood(now: dict[str, float], before: dict[str, float], limits: params.Gate) -> list[Check]:
    """Rejection of out-of-distribution photos, as `ood.summarize` gives it for the same photos."""
    photos = f"{now['ood_images']:,} OOD photos"
    rate, fpr = ([now[key], before[key]] for key in ("ood_rejection_rate", "ood_fpr95"))
    return [
        _compared("OOD rejection rate", photos, rate, HIGHER, limits.max_ood_rejection_drop),
        _compared("OOD FPR at 95 % TPR", photos, fpr, LOWER, limits.max_ood_fpr95_rise),
    ]


def of_corruptions(now: float, before: float, photos: int, limits: params.Gate) -> Check:
    """Mean accuracy over all kinds and levels of corruption."""
    compared_on, limit = f"{photos:,} photos, corrupted", limits.max_corrupted_drop
    return _compared("corrupted accuracy", compared_on, [now, before], HIGHER, limit)


def of_time(now: Floats, before: Floats, limits: params.Gate) -> list[Check]:
    """Median and 99th percentile of the seconds (N,) that each of the same photos takes."""
    checks = []
    quantiles = (("median", 50, limits.max_latency_ratio), ("p99", 99, limits.max_p99_ratio))
    for name, percent, limit in quantiles:
        ours, theirs = (float(1000 * np.percentile(some, percent)) for some in (now, before))
        allowed = f"at most {limit:g} times the champion’s"
        found = (ours, theirs, LOWER, allowed, ours <= limit * theirs)
        checks.append(Check(f"time for a photo, {name}, ms", f"{len(now):,} photos", *found))
    return checks


def p_of_loss(gained: Floats | intervals.Ints) -> float:
    """The p-value, one-sided: may chance alone explain that the challenger loses photos?

    `gained` (G,) is how many more photos of each group the challenger reads right. If the two are
    alike, each group could as well have the other sign: the sign-flip permutation test of R. A.
    Fisher, "The Design of Experiments" (1935), chapter III. Few groups: exact; else `FLIPS` draws.
    """
    # SciPy wants two values at least; a group without a difference changes nothing.
    differences = np.append(gained[gained != 0], [0, 0])
    result = permutation_test(
        (differences,),
        np.sum,
        permutation_type="samples",
        alternative="less",
        vectorized=True,
        n_resamples=FLIPS,
        batch=100,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def _accuracy(now: pd.DataFrame, before: pd.DataFrame, limits: params.Gate) -> Check:
    difference = now["correct"].astype(int).to_numpy() - before["correct"].to_numpy()
    p = p_of_loss(np.bincount(intervals.group_numbers(now["group"]), weights=difference))
    won, lost = (difference > 0).sum(), (difference < 0).sum()
    compared_on = f"{_count(now)}: {won} photos won, {lost} lost, p = {p:.3g}"
    found = float(now["correct"].mean()), float(before["correct"].mean())
    allowed = f"p at least {limits.significance:g}"
    return Check("accuracy", compared_on, *found, HIGHER, allowed, p >= limits.significance)


def _recall(
    now: pd.DataFrame, before: pd.DataFrame, names: dict[int, str], limits: params.Gate
) -> Check:
    """The class that loses most, of those with enough photos."""
    recall, recall_before = (t.groupby("class_id")["correct"].mean() for t in (now, before))
    enough = now.groupby("class_id").size() >= limits.min_class_photos
    if not enough.any():
        return Check("recall of a class", f"no class has {limits.min_class_photos} photos")
    worst: Any = (recall_before - recall)[enough].idxmax()
    compared_on = f"{names[worst]}, {_count(now[now['class_id'] == worst])}"
    found = [recall[worst], recall_before[worst]]
    return _compared("recall of a class", compared_on, found, HIGHER, limits.max_recall_drop)


def _ece(table: pd.DataFrame) -> float:
    columns = table["confidence"].to_numpy(), table["correct"].to_numpy()
    return calibration.expected_calibration_error(*columns)


def _accepted_precision(table: pd.DataFrame) -> float:
    accepted = table.loc[table["accepted"], "correct"]
    return float(accepted.mean()) if len(accepted) else 1.0


def _count(table: pd.DataFrame) -> str:
    groups = len(np.unique(intervals.group_numbers(table["group"])))
    return f"{len(table):,} photos in {groups:,} groups"


def _limited(
    name: str, compared_on: str, found: Sequence[float], better: str, limit: float
) -> Check:
    """A limit of what was found of the challenger, whatever was found of the champion."""
    now, before = map(float, found) if len(found) > 1 else (float(found[0]), None)
    passed, most = (now <= limit, "most") if better == LOWER else (now >= limit, "least")
    return Check(name, compared_on, now, before, better, f"at {most} {limit:g}", passed)


def _compared(
    name: str, compared_on: str, found: Sequence[float], better: str, loss: float
) -> Check:
    """A limit of how much worse the challenger may be than the champion."""
    now, before = map(float, found)
    worse, side = (before - now, "below") if better == HIGHER else (now - before, "above")
    allowed = f"at most {loss:g} {side} the champion’s"
    # With floats, 0.9 - 0.8 is a little more than 0.1.
    return Check(name, compared_on, now, before, better, allowed, worse <= loss + 1e-9)
