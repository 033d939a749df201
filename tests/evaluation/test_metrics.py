"""Figures of answers, against ones computed by hand."""

import numpy as np
import pandas as pd
import pytest

from signs.evaluation import metrics

# Four photos of class 0, one of class 1, none of class 2; two are read wrongly.
LABELS = np.array([0, 0, 0, 0, 1])
LOGITS = np.log(
    [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.5, 0.2, 0.3]]
).astype(np.float32)
CLASSES = pd.DataFrame({"ClassId": [5, 7, 9], "Name": ["Stop", "Yield", "Horn"]})


def test_figures() -> None:
    found = metrics.compute(LABELS, LOGITS, temperature=1.0)
    assert (found["images"], found["classes"]) == (5, 2)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["macro_f1"] == pytest.approx((2 * 3 / (4 + 4) + 0) / 2)
    assert found["top3_accuracy"] == 1
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.7, 0.6, 0.3, 0.2]).mean(), abs=1e-5)
    # Each confidence is alone in its bin but the two of 0.6, of which one is right.
    gaps = 0.2 + 0.3 + abs(1.2 - 1) + 0.5
    assert found["ece"] == pytest.approx(gaps / 5, abs=1e-5)
    assert found["ece_uncalibrated"] == found["ece"]


def test_the_temperature_changes_confidence_alone() -> None:
    sharp, flat = (metrics.compute(LABELS, LOGITS, t) for t in (1.0, 4.0))
    changed = {name for name in sharp if sharp[name] != flat[name]}
    assert changed == {"log_loss", "ece"}


def test_by_class_and_confusions() -> None:
    answers = LOGITS.argmax(axis=1)
    table = pd.DataFrame({"label": LABELS, "predicted_label": answers})
    classes = metrics.by_class(table, CLASSES).set_index("class_id")
    assert classes.loc[5, ["test", "correct", "recall"]].tolist() == [4, 3, 0.75]
    assert classes.loc[5, "precision"] == 0.75
    assert classes.loc[7, ["recall", "precision", "f1"]].tolist() == [0, 0, 0]
    assert np.isnan(classes.loc[9, "recall"])
    ids = CLASSES["ClassId"].to_numpy()
    table = table.assign(class_id=ids[LABELS], prediction=ids[answers], correct=answers == LABELS)
    pairs = metrics.confusions(table, CLASSES)
    assert pairs["true_name"].tolist() == ["Stop", "Yield"]
    assert pairs["predicted_name"].tolist() == ["Yield", "Stop"]
    assert pairs["share"].tolist() == [0.25, 1.0]
