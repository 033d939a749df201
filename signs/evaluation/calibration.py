"""Calibration: temperature, thresholds, expected calibration error."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

ECE_BINS = 15


def log_loss(logits: Floats, labels: Ints, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood, in nats, of the true classes."""
    scores = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-scores[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The temperature (0.05 to 20) that minimises the log loss of held-out images.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599.
    """
    best = minimize_scalar(
        lambda log_t: log_loss(logits, labels, float(np.exp(log_t))),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(best.x))


def expected_calibration_error(confidence: Floats, correct: Bools) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, 0 to 1.

    Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning";
    15 bins as in Guo et al. 2017.
    """
    place = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(place, weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(confidence))


def precision_threshold(confidence: Floats, correct: Bools, precision: float) -> float:
    """The lowest confidence from which on this share of held-out predictions (N,) is right.

    If there is none, the highest confidence: then almost everything is "unknown".
    """
    order = np.argsort(-confidence, kind="stable")
    # Equal confidences stand or fall together.
    last_of_tie = np.append(np.diff(confidence[order]) != 0, True)
    reached = np.cumsum(correct[order]) / np.arange(1, len(order) + 1) >= precision
    enough = np.flatnonzero(reached & last_of_tie)
    return float(confidence[order][enough[-1]] if len(enough) else confidence.max())


def coverage_threshold(scores: Floats, coverage: float) -> float:
    """The highest score that at least this share of the images, 0 to 1, reaches."""
    needed = max(1, int(np.ceil(coverage * len(scores) - 1e-9)))
    return float(np.sort(scores)[-needed])
