"""Calibration, checked on examples whose result is known."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from signs.evaluation import calibration


@pytest.fixture(scope="module")
def calibrated() -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are sampled from their own softmax."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (20_000, 5))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    return logits, np.minimum(labels, 4)


# Log loss and temperature.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_log_loss_equals_scikit_learns(
    temperature: float, calibrated: tuple[np.ndarray, np.ndarray]
) -> None:
    logits, labels = calibrated
    expected = sklearn.metrics.log_loss(labels, softmax(logits / temperature, axis=1))
    assert calibration.log_loss(logits, labels, temperature) == pytest.approx(expected)


def test_log_loss_of_extreme_logits_is_finite() -> None:
    logits = np.array([[1e4, -1e4]], np.float32)
    assert calibration.log_loss(logits, np.array([0])) == 0
    assert calibration.log_loss(logits, np.array([1])) == pytest.approx(2e4)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.0, 8.0])
def test_temperature_undoes_a_known_scaling(
    scale: float, calibrated: tuple[np.ndarray, np.ndarray]
) -> None:
    logits, labels = calibrated[0] * scale, calibrated[1]
    best = calibration.fit_temperature(logits, labels)
    assert best == pytest.approx(scale, rel=0.04)
    losses = [calibration.log_loss(logits, labels, best * f) for f in (0.9, 1.0, 1.1)]
    assert losses[1] == min(losses)


def test_temperature_stays_within_bounds() -> None:
    sure = np.array([[5.0, 0.0], [0.0, 5.0]])
    always_right = calibration.fit_temperature(sure, np.array([0, 1]))
    always_wrong = calibration.fit_temperature(sure, np.array([1, 0]))
    assert 0.05 <= always_right < 0.5
    assert always_wrong == pytest.approx(20, rel=0.02)


# Expected calibration error (ECE).


@pytest.mark.parametrize(
    ("right_of_ten", "expected"),
    [((6, 4), (0.3 + 0.1) / 2), ((7, 5), 0.2)],
    ids=["two bins", "gaps of opposite sign do not cancel"],
)
def test_ece_by_hand(right_of_ten: tuple[int, int], expected: float) -> None:
    """Ten predictions with confidence 0.9 and ten with 0.3, some of them right."""
    confidence = np.repeat([0.9, 0.3], 10)
    correct = np.concatenate([np.arange(10) < right for right in right_of_ten])
    found = calibration.expected_calibration_error(confidence, correct)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("confidence", "right", "expected"), [(1, 1, 0), (1, 0, 1), (0, 0, 0)])
def test_ece_of_certainty(confidence: float, right: bool, expected: float) -> None:
    confidences, correct = np.full(4, float(confidence)), np.full(4, right, bool)
    assert calibration.expected_calibration_error(confidences, correct) == expected


# Thresholds.


@given(
    predictions=st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=60),
    precision=st.floats(0.05, 0.99),
)
def test_precision_threshold_reaches_the_precision_if_any_does(
    predictions: list[tuple[int, bool]], precision: float
) -> None:
    confidence = np.array([c / 20 for c, _ in predictions])
    correct = np.array([right for _, right in predictions])
    enough = [t for t in np.unique(confidence) if correct[confidence >= t].mean() >= precision]
    expected = min(enough) if enough else confidence.max()
    assert calibration.precision_threshold(confidence, correct, precision) == expected


@given(scores=st.lists(st.integers(1, 20), min_size=1, max_size=60), coverage=st.floats(0.01, 1))
def test_coverage_threshold_is_the_highest_that_suffices(
    scores: list[int], coverage: float
) -> None:
    values = np.array(scores) / 20
    found = calibration.coverage_threshold(values, coverage)
    assert (values >= found).mean() >= coverage - 1e-9
    assert (values > found).mean() < coverage
