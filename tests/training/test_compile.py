"""A network that is ready to train: its schedule, loss and metric."""

import keras
import numpy as np
import pytest

from signs.training.compile import Accuracy, build
from tests.training.small import prepared, recipe


def test_accuracy_leaves_outliers_out() -> None:
    metric = Accuracy()
    targets = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]], np.float32)
    metric.update_state(targets, np.array([[2, 1], [2, 1], [2, 1], [1, 2]], np.float32))
    assert float(metric.result()) == 0.5


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("cosine", 0.2, [0, 0.2, 0.4, 0.2, 0]),
        ("cosine", 0.0, [0.4, None, None, None, 0]),
        ("constant", 0.0, [0.4] * 5),
    ],
)
def test_learning_rate(schedule: str, warmup: float, expected: list[float | None]) -> None:
    """At the start, half through and at the end of the warm-up, half-way down, and at the end."""
    changes = {"epochs": 10, "schedule": schedule, "warmup": warmup, "learning_rate": 0.4}
    optimizer = build("compact", prepared(), recipe(**changes)).optimizer
    for step, rate in zip((0, 10, 20, 60, 100), expected, strict=True):
        optimizer.iterations.assign(step)
        if rate is not None:
            assert float(optimizer.learning_rate) == pytest.approx(rate, abs=1e-6)


def test_loss_takes_logits_and_smoothed_targets() -> None:
    model = build("compact", prepared(), recipe(label_smoothing=0.3, weight_decay=0.01))
    targets, logits = np.array([[1.0, 0, 0]]), np.array([[2.0, 0, 1]])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    expected = -(np.array([0.8, 0.1, 0.1]) * np.log(probabilities)).sum()
    assert float(model.loss(targets, logits)) == pytest.approx(expected, rel=1e-5)
    assert isinstance(model.optimizer, keras.optimizers.AdamW)
    assert model.optimizer.weight_decay == 0.01
    assert model.output_shape == (None, 3)
