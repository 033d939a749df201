"""Accuracy, recall, precision and calibration of predictions; tables by class and confusion."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs.evaluation import calibration
from signs.inference.classifier import Classifier, probabilities


def compute(
    labels: npt.NDArray[np.int64], logits: npt.NDArray[np.float32], temperature: float
) -> dict[str, float]:
    """All metrics of a set of photos; averages over classes count the classes that occur in it.

    Args:
        labels: (N,) true classes.
        logits: (N, classes).
        temperature: what they are divided by before the softmax.
    """
    calibrated = probabilities(logits, temperature)
    predicted = calibrated.argmax(axis=1)
    correct = predicted == labels
    low, high = calibration.wilson_interval(int(correct.sum()), len(labels))
    present = np.unique(labels)
    recalls = [correct[labels == c].mean() for c in present]
    f1 = [
        2 * (correct & (labels == c)).sum() / ((labels == c).sum() + (predicted == c).sum())
        for c in present
    ]
    top3 = (np.argsort(-logits, axis=1)[:, :3] == labels[:, None]).any(axis=1)
    uncalibrated = probabilities(logits).max(axis=1)
    error = calibration.expected_calibration_error
    metrics = {
        "accuracy": correct.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": np.mean(recalls),
        "macro_f1": np.mean(f1),
        "top3_accuracy": top3.mean(),
        "log_loss": calibration.log_loss(logits, labels, temperature),
        "ece": error(calibrated.max(axis=1), correct),
        "ece_uncalibrated": error(uncalibrated, correct),
    }
    return {"images": len(labels), "classes": len(present), **rounded(metrics)}


def with_coverage(
    samples: pd.DataFrame, logits: npt.NDArray[np.float32], model: Classifier
) -> dict[str, float]:
    """All metrics of a classifier on a set of photos, with what "unknown" costs and brings.

    Adds groups (how many different signs, if known), accepted (share of the photos) and
    accepted_precision (share of right predictions among the accepted).

    Args:
        samples: one row a photo: label, group.
        logits: (N, classes).
        model: the classifier that the logits come from.
    """
    labels = samples["label"].to_numpy()
    accepted, correct = model.accepted(logits), logits.argmax(axis=1) == labels
    shares = {
        "accepted": accepted.mean(),
        "accepted_precision": correct[accepted].mean() if accepted.any() else 1.0,
    }
    groups = samples["group"].nunique() if (samples["group"] != "").any() else None
    return {
        **({} if groups is None else {"groups": groups}),
        **compute(labels, logits, model.metadata.temperature),
        **rounded(shares),
    }


def rounded(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics as files hold them: five decimals."""
    return {name: round(float(value), 5) for name, value in metrics.items()}


def by_class(test: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Recall with its 95 % interval, precision and F1 of each class.

    Args:
        test: one row a photo: label, predicted_label.
        classes: one row a class, in label order: ClassId, Name.
    """
    rows: list[dict[str, Any]] = []
    for label, (class_id, name) in enumerate(zip(classes["ClassId"], classes["Name"], strict=True)):
        shown, predicted = test["label"] == label, test["predicted_label"] == label
        count, hits = int(shown.sum()), int((shown & predicted).sum())
        low, high = calibration.wilson_interval(hits, count)
        row: dict[str, Any] = {"class_id": class_id, "name": name, "test": count, "correct": hits}
        if count:
            row |= {"recall": hits / count, "recall_low": low, "recall_high": high}
            row["precision"] = hits / predicted.sum() if predicted.any() else 0.0
            row["f1"] = 2 * hits / (count + int(predicted.sum()))
        rows.append(row)
    return pd.DataFrame(rows)


def confusions(test: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Pairs of true and predicted class, most frequent first.

    Args:
        test: one row a photo: class_id, prediction (a class id), correct.
        classes: one row a class: ClassId, Name.
    """
    names = dict(zip(classes["ClassId"], classes["Name"], strict=True))
    wrong = test[~test["correct"]]
    pairs = wrong.groupby(["class_id", "prediction"]).size().rename("count").reset_index()
    pairs = pairs.sort_values(["count", "class_id", "prediction"], ascending=[False, True, True])
    totals = test["class_id"].value_counts()
    return pd.DataFrame(
        {
            "true_id": pairs["class_id"],
            "true_name": pairs["class_id"].map(names),
            "predicted_id": pairs["prediction"],
            "predicted_name": pairs["prediction"].map(names),
            "count": pairs["count"],
            "share": pairs["count"] / pairs["class_id"].map(totals),
        }
    )
