"""Confidence that means something, checked on toys whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signs.evaluation import calibration


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def honest() -> tuple[np.ndarray, np.ndarray]:
    """Logits that mean what they say: labels are drawn from their own softmax."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (20_000, 5))
    drawn = (softmax(logits).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    return logits, np.minimum(drawn, 4)


# log loss


def test_log_loss_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    expected = -(np.log(0.5) + np.log(0.1)) / 2
    assert calibration.log_loss(logits, np.array([0, 1])) == pytest.approx(expected)


def test_log_loss_at_a_temperature() -> None:
    logits = np.array([[2.0, 0.0]])
    expected = -np.log(np.e / (np.e + 1))
    assert calibration.log_loss(logits, np.array([0]), 2.0) == pytest.approx(expected)


def test_log_loss_of_extreme_logits_is_finite() -> None:
    logits = np.array([[1e4, -1e4]], np.float32)
    assert calibration.log_loss(logits, np.array([0])) == 0
    assert calibration.log_loss(logits, np.array([1])) == pytest.approx(2e4)


# temperature


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.0, 8.0])
def test_temperature_undoes_a_known_scaling(
    scale: float, honest: tuple[np.ndarray, np.ndarray]
) -> None:
    logits, labels = honest
    assert calibration.fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.04)


def test_temperature_is_the_best_one(honest: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = honest[0] * 3, honest[1]
    best = calibration.fit_temperature(logits, labels)
    losses = [calibration.log_loss(logits, labels, best * f) for f in (0.9, 1.0, 1.1)]
    assert losses[1] == min(losses)
    assert losses[1] < calibration.log_loss(logits, labels)


def test_temperature_stays_within_bounds() -> None:
    sure = np.array([[5.0, 0.0], [0.0, 5.0]])
    always_right = calibration.fit_temperature(sure, np.array([0, 1]))
    always_wrong = calibration.fit_temperature(sure, np.array([1, 0]))
    assert 0.05 <= always_right < 0.5
    assert always_wrong == pytest.approx(20, rel=0.02)


# expected calibration error


def test_ece_of_honest_confidences(honest: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities = softmax(honest[0])
    correct = probabilities.argmax(axis=1) == honest[1]
    assert calibration.expected_calibration_error(probabilities.max(axis=1), correct) < 0.015
    sharpened = softmax(honest[0] * 3)
    assert calibration.expected_calibration_error(sharpened.max(axis=1), correct) > 0.1


def test_ece_by_hand() -> None:
    # Two bins: ten answers at 0.9, six of them right; ten at 0.3, four of them right.
    confidence = np.repeat([0.9, 0.3], 10)
    correct = np.array([True] * 6 + [False] * 4 + [True] * 4 + [False] * 6)
    found = calibration.expected_calibration_error(confidence, correct)
    assert found == pytest.approx((0.3 + 0.1) / 2)


def test_ece_does_not_let_gaps_of_different_bins_cancel() -> None:
    confidence = np.repeat([0.9, 0.3], 10)
    correct = np.array([True] * 7 + [False] * 3 + [True] * 5 + [False] * 5)
    assert np.isclose(confidence.mean(), correct.mean())
    found = calibration.expected_calibration_error(confidence, correct)
    assert found == pytest.approx(0.2)


def test_ece_of_certainty() -> None:
    ones = np.ones(4)
    assert calibration.expected_calibration_error(ones, np.ones(4, bool)) == 0
    assert calibration.expected_calibration_error(ones, np.zeros(4, bool)) == 1
    assert calibration.expected_calibration_error(np.zeros(4), np.zeros(4, bool)) == 0


# threshold


def test_threshold_is_the_lowest_that_suffices() -> None:
    confidence = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5])
    correct = np.array([True, True, False, True, False, False])
    choose = calibration.precision_threshold
    assert choose(confidence, correct, 0.99) == 0.9
    assert choose(confidence, correct, 0.75) == 0.7
    assert choose(confidence, correct, 0.6) == 0.6
    assert choose(confidence, correct, 0.5) == 0.5


def test_threshold_takes_ties_together() -> None:
    # The right ones of the tie come first in the file; they can't be told from the wrong ones.
    confidence = np.array([0.9, 0.9, 0.8, 0.8, 0.8, 0.8])
    correct = np.array([True, True, True, True, False, False])
    assert calibration.precision_threshold(confidence, correct, 0.9) == 0.9
    assert calibration.precision_threshold(confidence, correct, 0.66) == 0.8


def test_threshold_out_of_reach_is_the_highest_confidence() -> None:
    confidence = np.array([0.7, 0.99, 0.8])
    assert calibration.precision_threshold(confidence, np.zeros(3, bool), 0.9) == 0.99


@given(
    answers=st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=60),
    precision=st.floats(0.05, 0.99),
)
def test_threshold_keeps_its_promise(answers: list[tuple[int, bool]], precision: float) -> None:
    confidence = np.array([c / 20 for c, _ in answers])
    correct = np.array([right for _, right in answers])
    enough = [t for t in np.unique(confidence) if correct[confidence >= t].mean() >= precision]
    expected = min(enough) if enough else confidence.max()
    assert calibration.precision_threshold(confidence, correct, precision) == expected


def test_coverage_threshold_lets_the_wanted_share_in() -> None:
    confidence = np.arange(1, 101) / 100
    assert calibration.coverage_threshold(confidence, 0.99) == 0.02
    assert calibration.coverage_threshold(confidence, 1.0) == 0.01
    # Of few images not one may be lost.
    assert calibration.coverage_threshold(confidence[:50], 0.99) == 0.01
    assert calibration.coverage_threshold(np.array([0.3]), 0.01) == 0.3


@given(
    confidence=st.lists(st.integers(1, 20), min_size=1, max_size=60), accepted=st.floats(0.01, 1)
)
def test_coverage_threshold_is_the_highest_that_does(
    confidence: list[int], accepted: float
) -> None:
    values = np.array(confidence) / 20
    found = calibration.coverage_threshold(values, accepted)
    assert (values >= found).mean() >= accepted - 1e-9
    assert (values > found).mean() < accepted


# intervals


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        (81, 263, 0.25527, 0.36624),  # Newcombe 1998, table I: 0.2553 to 0.3662
        (15, 148, 0.06237, 0.16051),  # 0.0624 to 0.1605
        (0, 20, 0.0, 0.16113),  # 0.0000 to 0.1611
        (1, 29, 0.00611, 0.17176),  # 0.0061 to 0.1718
    ],
)
def test_wilson_interval(successes: int, total: int, low: float, high: float) -> None:
    assert calibration.wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_of_nothing() -> None:
    assert calibration.wilson_interval(0, 0) == (0.0, 1.0)


@given(total=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_interval_holds_the_share(total: int, share: float) -> None:
    successes = round(share * total)
    low, high = calibration.wilson_interval(successes, total)
    assert 0 <= low <= successes / total + 1e-12
    assert successes / total - 1e-12 <= high <= 1
