"""Metrics of out-of-distribution (OOD) photos; scikit-learn is the oracle."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy.special import logsumexp

from signs.evaluation import ood

RNG = np.random.default_rng(4)
# Rounded, so that some scores are equal.
KNOWN = np.round(RNG.normal(2, 2, (400, 3)), 1).astype(np.float32)
OUTSIDE = np.round(RNG.normal(0, 2, (300, 3)), 1).astype(np.float32)


def test_scores_equal_scikit_learns() -> None:
    truth = np.repeat([1, 0], [400, 300])
    energy = ood.energy_scores(np.concatenate([KNOWN, OUTSIDE]))
    assert energy == pytest.approx(logsumexp(np.concatenate([KNOWN, OUTSIDE]), axis=1), abs=1e-6)
    fpr, tpr, _ = sklearn.metrics.roc_curve(truth, energy, drop_intermediate=False)
    expected = {
        "ood_rejection_at_99": 1 - fpr[np.argmax(tpr >= 0.99)],
        "ood_fpr95": fpr[np.argmax(tpr >= 0.95)],
        "ood_auroc": sklearn.metrics.roc_auc_score(truth, energy),
    }
    assert 0.1 < expected["ood_fpr95"] < 0.9
    assert ood.scores(KNOWN, OUTSIDE) == pytest.approx(expected)


@pytest.fixture
def predictions() -> pd.DataFrame:
    columns = ["name", "prediction", "confidence", "accepted"]
    return pd.DataFrame(
        [
            ("Horn", 3, 0.5, False),
            ("Ferry", 14, 0.9, True),
            ("Horn", 3, 0.7, True),
            ("Ferry", 3, 0.9, True),
            ("Horn", 14, 0.3, False),
            ("Ferry", 14, 0.6, True),
        ],
        columns=columns,
    )


def test_summary_has_the_rejection_rate_and_the_scores(predictions: pd.DataFrame) -> None:
    found = ood.summarize(KNOWN, OUTSIDE[:6], predictions)
    assert (found["ood_images"], found["ood_rejection_rate"]) == (6, round(2 / 6, 5))
    scores = ood.scores(KNOWN, OUTSIDE[:6])
    assert {name: found[name] for name in scores} == pytest.approx(scores, abs=1e-5)


def test_one_row_a_class_least_rejected_first(predictions: pd.DataFrame) -> None:
    table = ood.by_class(predictions, {3: "Red", 14: "Green"})
    assert table.index.tolist() == ["Ferry", "Horn"]
    assert table["photos"].tolist() == [3, 3]
    assert table["rejected"].tolist() == pytest.approx([0, 2 / 3])
    assert table["mean_confidence"].tolist() == pytest.approx([0.8, 0.5])
    assert table["most_frequent_prediction"].tolist() == ["Green", "Red"]
