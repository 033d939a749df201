"""Metrics of predictions; scikit-learn is the oracle."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy.special import softmax

from signs.evaluation import metrics
from tests.inference.small import load

# Class 4 is predicted now and then but does not occur.
RNG = np.random.default_rng(3)
LABELS = RNG.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05])
LOGITS = (RNG.normal(size=(300, 5)) + 1.2 * np.eye(5)[LABELS]).astype(np.float32)
PREDICTED = LOGITS.argmax(axis=1)
ALONE = pd.Series([""] * 300)
CLASSES = pd.DataFrame({"ClassId": [5, 7, 9, 11, 30], "Name": ["Stop", "Yield", "Horn", "A", "B"]})


def test_metrics_equal_scikit_learns() -> None:
    found = metrics.compute(LABELS, LOGITS, 2.0, ALONE)
    present, every = [0, 1, 2, 3], range(5)
    recalls = sklearn.metrics.recall_score(LABELS, PREDICTED, labels=present, average=None)
    f1 = sklearn.metrics.f1_score(LABELS, PREDICTED, labels=present, average="macro")
    calibrated = softmax(LOGITS / 2, axis=1)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(LABELS, PREDICTED),
        "balanced_accuracy": recalls.mean(),
        "macro_f1": f1,
        "top3_accuracy": sklearn.metrics.top_k_accuracy_score(LABELS, LOGITS, k=3, labels=every),
        "log_loss": sklearn.metrics.log_loss(LABELS, calibrated, labels=every),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert (found["images"], found["classes"]) == (300, 4)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_balanced_accuracy_equals_scikit_learns_where_all_classes_occur() -> None:
    found = metrics.compute(LABELS, LOGITS[:, :4], 1.0, ALONE)["balanced_accuracy"]
    predicted = LOGITS[:, :4].argmax(axis=1)
    expected = sklearn.metrics.balanced_accuracy_score(LABELS, predicted)
    assert found == pytest.approx(expected, abs=1e-5)


def test_calibration_error_by_hand() -> None:
    """Each confidence is alone in its bin but the two of 0.6, of which one is right."""
    shares = [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.5, 0.2, 0.3]]
    logits = np.log(shares).astype(np.float32)
    found = metrics.compute(np.array([0, 0, 0, 0, 1]), logits, 1.0, ALONE[:5])
    gaps = 0.2 + 0.3 + abs(1.2 - 1) + 0.5
    assert found["ece"] == found["ece_uncalibrated"] == pytest.approx(gaps / 5, abs=1e-5)


def test_the_temperature_changes_only_the_confidence() -> None:
    sharp, flat = (metrics.compute(LABELS, LOGITS, t, ALONE) for t in (1.0, 4.0))
    assert {name for name in sharp if sharp[name] != flat[name]} == {"log_loss", "ece"}


def test_intervals_are_by_group_and_by_photo() -> None:
    """Each photo is there ten times, so there are a tenth as many observations."""
    labels, logits = np.repeat(LABELS, 10), np.repeat(LOGITS, 10, axis=0)
    group = pd.Series(np.repeat(np.arange(300), 10))
    single, tenfold = (
        metrics.compute(LABELS, LOGITS, 1.0, ALONE),
        metrics.compute(labels, logits, 1.0, group),
    )
    for end in ("low", "high"):
        assert tenfold[f"accuracy_{end}"] == pytest.approx(single[f"accuracy_{end}"], abs=0.005)
        gap, narrow = (
            abs(tenfold[f"accuracy_{end}{by}"] - tenfold["accuracy"]) for by in ("", "_by_photo")
        )
        assert gap == pytest.approx(narrow * 10**0.5, rel=0.1)
    test = pd.DataFrame({"label": LABELS, "predicted_label": PREDICTED, "group": ""})
    frames = pd.DataFrame(
        {"label": labels, "predicted_label": logits.argmax(axis=1), "group": group}
    )
    ends = ["recall_low", "recall_high"]
    expected = metrics.by_class(test, CLASSES)[ends].to_numpy()
    found = metrics.by_class(frames, CLASSES)[ends].to_numpy()
    assert found[:4] == pytest.approx(expected[:4], abs=0.03)


def test_coverage_of_a_classifier(tmp_path: Path) -> None:
    model = load(tmp_path)
    # Right and accepted, wrong and accepted, right but not accepted.
    logits = np.array([[16, 0, 0, 0], [16, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    samples = pd.DataFrame({"label": [0, 2, 1], "group": ["a", "a", "b"]})
    found = metrics.with_coverage(samples, logits, model)
    expected = {"groups": 2, "accuracy": 2 / 3, "accepted": 2 / 3, "accepted_precision": 0.5}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert "groups" not in metrics.with_coverage(samples.assign(group=""), logits, model)
    nothing_accepted = metrics.with_coverage(samples[2:], logits[2:], model)
    assert (nothing_accepted["accepted"], nothing_accepted["accepted_precision"]) == (0, 1)


def test_by_class_equals_scikit_learns() -> None:
    table = metrics.by_class(
        pd.DataFrame({"label": LABELS, "predicted_label": PREDICTED, "group": ""}), CLASSES
    ).set_index("class_id")
    precision, recall, f1, count = sklearn.metrics.precision_recall_fscore_support(
        LABELS, PREDICTED, labels=range(5), zero_division=0
    )
    assert table["test"].tolist() == table["test_groups"].tolist() == count.tolist()
    assert (
        table["correct"].tolist()
        == np.diag(sklearn.metrics.confusion_matrix(LABELS, PREDICTED)).tolist()
    )
    expected = pd.DataFrame({"recall": recall, "precision": precision, "f1": f1}).to_numpy()
    assert table[["recall", "precision", "f1"]].to_numpy()[:4] == pytest.approx(expected[:4])
    assert (table["recall_low"] < table["recall"])[:4].all()
    assert (table["recall"] < table["recall_high"])[:4].all()
    assert table.loc[30, ["recall", "recall_low", "precision", "f1"]].isna().all()


def test_confusions_equal_scikit_learns() -> None:
    ids, names = CLASSES["ClassId"].to_numpy(), CLASSES["Name"].to_numpy()
    test = pd.DataFrame({"class_id": ids[LABELS], "prediction": ids[PREDICTED]})
    pairs = metrics.confusions(test.assign(correct=LABELS == PREDICTED), CLASSES)
    matrix = sklearn.metrics.confusion_matrix(LABELS, PREDICTED)
    np.fill_diagonal(matrix, 0)
    assert len(pairs) == np.count_nonzero(matrix)
    assert pairs["count"].is_monotonic_decreasing
    for pair in pairs.itertuples():
        true, predicted = (np.flatnonzero(ids == i)[0] for i in (pair.true_id, pair.predicted_id))
        assert (pair.true_name, pair.predicted_name) == (names[true], names[predicted])
        assert pair.count == matrix[true, predicted]
        assert pair.share == pytest.approx(pair.count / (true == LABELS).sum())
