"""Out-of-distribution (OOD) photos: does the classifier say "unknown" to them?

Scores and the names of the metrics follow W. Liu et al., "Energy-based Out-of-distribution
Detection" (NeurIPS 2020).
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs.evaluation.calibration import coverage_threshold
from signs.evaluation.metrics import rounded
from signs.inference.classifier import energy_scores

Floats = npt.NDArray[np.floating]
Logits = npt.NDArray[np.float32]


def scores(known: Logits, ood: Logits) -> dict[str, float]:
    """How well the energy score tells known photos from OOD photos, whatever the threshold.

    Args:
        known: logits (N, classes) of photos of the network's classes.
        ood: logits (M, classes) of OOD photos.

    Returns:
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
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(known, ood).statistic / (len(known) * len(ood)))


def rejected_at(coverage: float, known: Floats, ood: Floats) -> float:
    """Share of OOD photos below the score that this share of known photos reaches."""
    return float((ood < coverage_threshold(known, coverage)).mean())


def summarize(known: Logits, ood: Logits, predictions: pd.DataFrame) -> dict[str, float]:
    """All OOD metrics of a classifier: `scores`, and the rejection rate at its thresholds.

    Args:
        known: logits (N, classes) of the test photos.
        ood: logits (M, classes) of the OOD photos.
        predictions: M rows, as `predictions_of` gives them.
    """
    rejection = {"ood_rejection_rate": 1 - predictions["accepted"].mean()}
    return {"ood_images": len(ood), **rounded(rejection | scores(known, ood))}


def by_class(predictions: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    """One row a class of OOD photos, least rejected first.

    Args:
        predictions: one row a photo: name (of what it shows), prediction, confidence, accepted.
        names: the classifier's classes by id.

    Returns:
        Index name; columns photos, rejected (share), mean_confidence, most_frequent_prediction.
    """
    predictions = predictions.assign(
        rejected=~predictions["accepted"], predicted_name=predictions["prediction"].map(names)
    )
    groups = predictions.groupby("name", sort=False)
    table = pd.DataFrame(
        {
            "photos": groups.size(),
            "rejected": groups["rejected"].mean(),
            "mean_confidence": groups["confidence"].mean(),
            "most_frequent_prediction": groups["predicted_name"].agg(lambda some: some.mode()[0]),
        }
    )
    return table.sort_values("rejected", kind="stable")
