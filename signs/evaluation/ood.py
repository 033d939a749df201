"""Out-of-distribution (OOD) photos: does the classifier say "unknown" to them?

Scores and the names of the metrics follow W. Liu et al., "Energy-based Out-of-distribution
Detection" (NeurIPS 2020).
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import mannwhitneyu

from signs.evaluation.calibration import coverage_threshold
from signs.evaluation.metrics import rounded
from signs.inference.classifier import Logits, energy_scores

Floats = npt.NDArray[np.floating]


def scores(known: Logits, ood: Logits) -> dict[str, float]:
    """How well the energy score tells known photos from OOD photos, whatever the threshold.

    ood_rejection_at_99: share of OOD photos rejected if 99 % of the known are accepted;
    ood_fpr95: share of OOD photos accepted if 95 % of the known are (FPR at 95 % TPR);
    ood_auroc: area under the ROC curve.
    """
    inside, outside = energy_scores(known), energy_scores(ood)
    return {
        "ood_rejection_at_99": rejected_at(0.99, inside, outside),
        "ood_fpr95": 1 - rejected_at(0.95, inside, outside),
        "ood_auroc": auroc(inside, outside),
    }


def auroc(known: Floats, ood: Floats) -> float:
    """The probability that a known photo has a higher score than an OOD photo, 0 to 1.

    The area under the receiver operating characteristic, as Mann and Whitney's U (1947).
    """
    return float(mannwhitneyu(known, ood).statistic / (len(known) * len(ood)))


def rejected_at(coverage: float, known: Floats, ood: Floats) -> float:
    """Share of OOD photos below the score that this share of known photos reaches."""
    return float((ood < coverage_threshold(known, coverage)).mean())


def summarize(known: Logits, ood: Logits, predictions: pd.DataFrame) -> dict[str, float]:
    """All OOD metrics: `scores`, and the rejection rate of the OOD photos' `predictions_of`."""
    rejection = {"ood_rejection_rate": 1 - predictions["accepted"].mean()}
    return {"ood_images": len(ood), **rounded(rejection | scores(known, ood))}


def by_class(predictions: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    """One row a class of OOD photos, by its name, least rejected first.

    The predictions have one row a photo: name (of what it shows), prediction (the id of one of the
    classifier's `names`), confidence, accepted.
    """
    rows = predictions.assign(
        rejected=~predictions["accepted"], predicted=predictions["prediction"].map(names)
    )
    table = rows.groupby("name", sort=False).agg(
        photos=("name", "size"),
        rejected=("rejected", "mean"),
        mean_confidence=("confidence", "mean"),
        most_frequent_prediction=("predicted", lambda some: some.mode()[0]),
    )
    return table.sort_values("rejected", kind="stable")
