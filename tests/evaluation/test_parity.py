"""Whether the ONNX model predicts what the Keras model predicts."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from signs.errors import UserError
from signs.evaluation import parity
from signs.inference.classifier import MODEL
from signs.paths import CLASSIFIER
from tests.inference.small import MEANS, load, model

IMAGES = np.random.default_rng(1).integers(0, 256, (1200, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Keras model with the weights of the small classifier."""
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(4)(flat))
    model.layers[-1].set_weights([MEANS.reshape(-1, 4), np.array([0.0, 0.0, 0.0, 1.0])])
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    model.save(path)
    return path


def test_the_same_weights_predict_the_same(keras_file: Path, tmp_path: Path) -> None:
    found = parity.compare(load(tmp_path), tmp_path / MODEL, keras_file, IMAGES, allowed=1e-3)
    assert found["same_predictions"] == 1
    assert found["onnx_max_difference"] in [10.0**-n for n in range(4, 13)]


def test_a_classifier_may_differ_from_the_file_of_floats(keras_file: Path, tmp_path: Path) -> None:
    other = load(tmp_path / "other", model(bias=(0, 0, 0, 9)))
    load(tmp_path)
    found = parity.compare(other, tmp_path / MODEL, keras_file, IMAGES, allowed=1e-3)
    labels = other.logits(IMAGES).argmax(axis=1)
    assert found["onnx_max_difference"] <= 1e-3
    assert 0 <= found["same_predictions"] < 1
    assert (labels == 3).mean() > 0.5


def test_other_weights_are_refused(keras_file: Path, tmp_path: Path) -> None:
    changed = keras.models.load_model(keras_file)
    weights, bias = changed.layers[-1].get_weights()
    changed.layers[-1].set_weights([weights, np.add(bias, [0.1, 0, 0, 0])])
    changed.save(tmp_path / "changed.keras")
    with pytest.raises(UserError, match=r"differ by 0\.02.* in a prob.*difference allows 0\.001"):
        parity.compare(
            load(tmp_path), tmp_path / MODEL, tmp_path / "changed.keras", IMAGES, allowed=1e-3
        )


def test_a_damaged_keras_model_is_named(keras_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(keras_file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"damaged\.keras cannot be read.*dvc repro -f train"):
        parity.compare(load(tmp_path), tmp_path / MODEL, damaged, IMAGES, allowed=1e-3)


def test_integers_are_compared_with_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deployed, floats = load(CLASSIFIER), load(tmp_path / "floats", model(bias=(0, 0, 0, 9)))
    logits = deployed.logits(IMAGES)
    labels = logits.argmax(axis=1)
    samples = pd.DataFrame({"label": labels, "group": ""})
    of_floats = tmp_path / "floats" / MODEL
    assert parity.formats(deployed, logits, of_floats, samples, IMAGES) == {}
    deployed.metadata.provenance["precision"] = "int8"
    found = parity.formats(deployed, logits, of_floats, samples, IMAGES)
    assert found["int8"]["accuracy"] == 1
    same = (floats.logits(IMAGES).argmax(axis=1) == labels).mean()
    assert found["float32"]["accuracy"] == pytest.approx(same, abs=1e-5)
    assert found["float32"].keys() == {"accuracy", "ece", "accepted", "megabytes"}
