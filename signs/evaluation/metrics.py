"""Accuracy, recall, precision and calibration of predictions; tables by class and confusion."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs.evaluation import calibration, intervals
from signs.inference.classifier import Classifier, Logits, probabilities

Labels = npt.NDArray[np.int64]


def compute(
    labels: Labels, logits: Logits, temperature: float, group: pd.Series
) -> dict[str, float]:
    """All metrics of photos, by their true classes (N,), logits (N, classes) and groups (N,).

    Averages over classes count the classes that occur; the logits are divided by the temperature.
    Accuracy has two 95 % intervals: `intervals.by_group`, and, by photo, as if photos of one group
    were independent.
    """
    calibrated = probabilities(logits, temperature)
    predicted = calibrated.argmax(axis=1)
    correct = predicted == labels
    low, high = intervals.by_group(correct, group)
    low_by_photo, high_by_photo = intervals.wilson(int(correct.sum()), len(labels))
    counts = _count(labels, predicted, logits.shape[1])
    counts = counts[counts["test"] > 0]
    top3 = (np.argsort(-logits, axis=1)[:, :3] == labels[:, None]).any(axis=1)
    error = calibration.expected_calibration_error
    metrics = {
        "accuracy": correct.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_low_by_photo": low_by_photo,
        "accuracy_high_by_photo": high_by_photo,
        "balanced_accuracy": (counts["correct"] / counts["test"]).mean(),
        "macro_f1": (2 * counts["correct"] / (counts["test"] + counts["predicted"])).mean(),
        "top3_accuracy": top3.mean(),
        "log_loss": calibration.log_loss(logits, labels, temperature),
        "ece": error(calibrated.max(axis=1), correct),
        "ece_uncalibrated": error(probabilities(logits).max(axis=1), correct),
    }
    return {"images": len(labels), "classes": len(counts), **rounded(metrics)}


def _count(labels: Labels, predicted: Labels, classes: int) -> pd.DataFrame:
    """One row a class: test (its photos), predicted (as this class), correct."""
    some = {"test": labels, "predicted": predicted, "correct": labels[labels == predicted]}
    return pd.DataFrame({key: np.bincount(of, minlength=classes) for key, of in some.items()})


def with_coverage(samples: pd.DataFrame, logits: Logits, model: Classifier) -> dict[str, float]:
    """All metrics of a classifier on photos, with what "unknown" costs and brings.

    Adds groups (how many different signs, if the column `group` tells), accepted (share of the
    photos) and accepted_precision (share of right predictions among the accepted).
    """
    labels = samples["label"].to_numpy()
    accepted, correct = model.accepted(logits), logits.argmax(axis=1) == labels
    shares = {
        "accepted": accepted.mean(),
        "accepted_precision": correct[accepted].mean() if accepted.any() else 1.0,
    }
    groups = {"groups": samples["group"].nunique()} if (samples["group"] != "").any() else {}
    found = compute(labels, logits, model.metadata.temperature, samples["group"])
    return groups | found | rounded(shares)


def rounded(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics as files hold them: five decimals."""
    return {name: round(float(value), 5) for name, value in metrics.items()}


def by_class(test: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Recall with its 95 % interval, precision, F1 and test groups of each class (ClassId, Name).

    The classes are in label order; the test photos have label, predicted_label and group.
    """
    labels, predicted = test["label"].to_numpy(), test["predicted_label"].to_numpy()
    counts = _count(labels, predicted, len(classes))
    shown, hits = counts["test"], counts["correct"]
    rows = [labels == label for label in range(len(classes))]
    limits = [intervals.by_group(predicted[i] == labels[i], test["group"][i]) for i in rows]
    low, high = zip(*limits, strict=True)
    groups = [len(np.unique(intervals.group_numbers(test["group"][i]))) for i in rows]
    precision = (hits / counts["predicted"]).fillna(0.0)
    shares = {"recall": hits / shown, "recall_low": low, "recall_high": high}
    shares |= {"precision": precision, "f1": 2 * hits / (shown + counts["predicted"])}
    table = pd.DataFrame({"class_id": classes["ClassId"], "name": classes["Name"]})
    # Nothing can be said of a class without a photo.
    return table.assign(test=shown, test_groups=groups, correct=hits).join(
        pd.DataFrame(shares)[shown > 0]
    )


def confusions(test: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Pairs of true and predicted class, most frequent first.

    Args:
        test: one row a photo: class_id, prediction (a class id), correct.
        classes: one row a class: ClassId, Name.
    """
    names, totals = classes.set_index("ClassId")["Name"], test["class_id"].value_counts()
    wrong = test[~test["correct"]]
    wrong = wrong.rename(columns={"class_id": "true_id", "prediction": "predicted_id"})
    pairs = wrong.groupby(["true_id", "predicted_id"]).size().reset_index(name="count")
    pairs = pairs.sort_values("count", ascending=False, kind="stable")
    pairs.insert(1, "true_name", pairs["true_id"].map(names))
    pairs.insert(3, "predicted_name", pairs["predicted_id"].map(names))
    return pairs.assign(share=pairs["count"] / pairs["true_id"].map(totals))
