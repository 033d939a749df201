"""A training that starts from the weights of a released classifier."""

from pathlib import Path

import keras
import numpy as np
import pytest

from signs.errors import UserError
from signs.training import networks, pretrained

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 16, 16, 3), np.uint8)


def build(seed: int, classes: int = 3, width: int = 8) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return networks.compact(16, 3, classes, width)


def features(model: keras.Model) -> np.ndarray:
    """What the layer of the classes is given."""
    return np.asarray(keras.Model(model.input, model.layers[-1].input)(IMAGES))


def test_all_but_the_classes_is_taken_over(tmp_path: Path) -> None:
    first, second = build(1), build(2, classes=5)
    pretrained.save(first, tmp_path / "weights.npz")
    head = second.layers[-1].get_weights()
    assert np.abs(features(first) - features(second)).max() > 0.1
    pretrained.start(second, tmp_path / "weights.npz")
    assert features(second) == pytest.approx(features(first), abs=0.02)  # 16 bits
    for before, after in zip(head, second.layers[-1].get_weights(), strict=True):
        assert (before == after).all()


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pretrained.save(build(1), tmp_path / name)
    first, second = ((tmp_path / f"{name}.npz").read_bytes() for name in ("a", "b"))
    assert first == second


def test_none_changes_nothing() -> None:
    model = build(1)
    before = model.get_weights()
    pretrained.start(model, pretrained.find("none"))
    for weights, kept in zip(model.get_weights(), before, strict=True):
        assert (weights == kept).all()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    pretrained.save(build(1), tmp_path / "weights.npz")
    with pytest.raises(UserError, match=r"has weights of another network\. Choose train\.network"):
        pretrained.start(build(1, width=12), tmp_path / "weights.npz")


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"train\.start is 'gtsrp', but pretrained/ has .*none"):
        pretrained.find("gtsrp")
