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
Tables = Sequence[pd.DataFrame]  # of the challenger and, if there is one, of the champion

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


def of_predictions(tables: Tables, names: dict[int, str], limits: params.Gate) -> list[Check]:
    """Accuracy, recall, calibration and acceptance on the test photos.

    One row a photo, the same ones in all tables: class_id, group, correct, confidence, accepted.
    """
    photos, least = _count(tables[0]), limits.min_accepted_precision
    ece, precision = (list(map(measure, tables)) for measure in (_ece, _accepted_precision))
    checks = [
        _limited("calibration (ECE)", photos, ece, LOWER, limits.max_ece),
        _limited("precision of the accepted", photos, precision, HIGHER, least),
    ]
    if len(tables) == 1:
        return checks
    share = [table["accepted"].mean() for table in tables]
    accepted = _compared("share accepted", photos, share, HIGHER, limits.max_accepted_drop)
    return [_accuracy(tables, limits), _recall(tables, names, limits), *checks, accepted]


def of_ood(found: Sequence[dict[str, float]], limits: params.Gate) -> list[Check]:
    """Rejection of out-of-distribution photos: `ood.summarize` of both for the same photos."""
    photos = f"{found[0]['ood_images']:,} OOD photos"
    rate, fpr = ([one[key] for one in found] for key in ("ood_rejection_rate", "ood_fpr95"))
    return [
        _compared("OOD rejection rate", photos, rate, HIGHER, limits.max_ood_rejection_drop),
        _compared("OOD FPR at 95 % TPR", photos, fpr, LOWER, limits.max_ood_fpr95_rise),
    ]


def of_corruptions(found: Sequence[float], photos: int, limits: params.Gate) -> Check:
    """Mean accuracy of both over all kinds and levels of corruption."""
    on = f"{photos:,} photos, corrupted"
    return _compared("corrupted accuracy", on, found, HIGHER, limits.max_corrupted_drop)


def of_time(seconds: Floats, limits: params.Gate) -> list[Check]:
    """Median and 99th percentile of the seconds (2, N) that each of N photos takes."""
    checks, on = [], f"{seconds.shape[1]:,} photos"
    for name, percent, limit in (
        ("time for a photo, median, ms", 50, limits.max_latency_ratio),
        ("time for a photo, p99, ms", 99, limits.max_p99_ratio),
    ):
        now, before = (1000 * np.percentile(seconds, percent, axis=1)).tolist()
        allowed, passed = f"at most {limit:g} times the champion’s", now <= limit * before
        checks.append(Check(name, on, now, before, LOWER, allowed, passed))
    return checks


def p_of_loss(gained: Floats | intervals.Ints) -> float:
    """The p-value, one-sided: may chance alone explain that the challenger loses photos?

    `gained` (G,) is how many more photos of each group the challenger reads right. If the two are
    alike, each group could as well have the other sign: the sign-flip permutation test of R. A.
    Fisher, "The Design of Experiments" (1935), chapter III. Few groups: exact; else `FLIPS` draws.
    """
    # SciPy wants two values at least; a group without a difference changes nothing.
    differences = np.append(gained[gained != 0], [0, 0])
    one_sided = {"permutation_type": "samples", "alternative": "less", "n_resamples": FLIPS}
    rng = np.random.default_rng(0)
    result = permutation_test((differences,), np.sum, **one_sided, batch=100, rng=rng)
    return float(result.pvalue)


def _accuracy(tables: Tables, limits: params.Gate) -> Check:
    now, before = (table["correct"].to_numpy(int) for table in tables)
    p = p_of_loss(np.bincount(intervals.group_numbers(tables[0]["group"]), weights=now - before))
    won, lost = (now > before).sum(), (now < before).sum()
    on = f"{_count(tables[0])}: {won} photos won, {lost} lost, p = {p:.3g}"
    found, allowed = (float(now.mean()), float(before.mean())), limits.significance
    return Check("accuracy", on, *found, HIGHER, f"p at least {allowed:g}", p >= allowed)


def _recall(tables: Tables, names: dict[int, str], limits: params.Gate) -> Check:
    """The class that loses most, of those with enough photos."""
    now, before = (table.groupby("class_id")["correct"].mean() for table in tables)
    enough = tables[0].groupby("class_id").size() >= limits.min_class_photos
    if not enough.any():
        return Check("recall of a class", f"no class has {limits.min_class_photos} photos")
    worst: Any = (before - now)[enough].idxmax()
    on = f"{names[worst]}, {_count(tables[0][tables[0]['class_id'] == worst])}"
    found = [now[worst], before[worst]]
    return _compared("recall of a class", on, found, HIGHER, limits.max_recall_drop)


def _ece(table: pd.DataFrame) -> float:
    columns = table["confidence"].to_numpy(), table["correct"].to_numpy()
    return calibration.expected_calibration_error(*columns)


def _accepted_precision(table: pd.DataFrame) -> float:
    accepted = table.loc[table["accepted"], "correct"]
    return float(accepted.mean()) if len(accepted) else 1.0


def _count(table: pd.DataFrame) -> str:
    groups = intervals.group_numbers(table["group"]).max() + 1
    return f"{len(table):,} photos in {groups:,} groups"


def _limited(name: str, on: str, found: Sequence[float], better: str, limit: float) -> Check:
    """A limit of what was found of the challenger, whatever was found of the champion."""
    now, before = map(float, found) if len(found) > 1 else (float(found[0]), None)
    passed, most = (now <= limit, "most") if better == LOWER else (now >= limit, "least")
    return Check(name, on, now, before, better, f"at {most} {limit:g}", passed)


def _compared(name: str, on: str, found: Sequence[float], better: str, loss: float) -> Check:
    """A limit of how much worse the challenger may be than the champion."""
    now, before = map(float, found)
    worse, side = (before - now, "below") if better == HIGHER else (now - before, "above")
    allowed = f"at most {loss:g} {side} the champion’s"
    # With floats, 0.9 - 0.8 is a little more than 0.1.
    return Check(name, on, now, before, better, allowed, worse <= loss + 1e-9)
