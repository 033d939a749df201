"""Saving a model: equal models, equal bytes; the classifier predicts what Keras predicts."""

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from signs.data.arrays import Prepared
from signs.data.splits import VALIDATION
from signs.inference.classifier import Classifier, run, session
from signs.paths import FLOAT_MODEL, KERAS_MODEL
from signs.training import export, networks, quantize
from tests.training.small import PARAMS, prepared

IMAGES = np.random.default_rng(1).integers(0, 256, (90, 8, 8, 3), np.uint8)


def build(seed: int) -> keras.Model:
    keras.utils.clear_session()  # layers get the names that they have in a process of their own
    keras.utils.set_random_seed(seed)
    model = networks.compact(8, 3, 3, 32)
    # Batch normalisation that has seen nothing would hide a wrong conversion.
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([w + rng.uniform(0.1, 0.5, w.shape) for w in layer.get_weights()])
    model.compile("adam", "mse")
    model(IMAGES)
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build(1)


def noisy() -> Prepared:
    """The small data set, with images that differ."""
    data = prepared()
    data.images[:] = IMAGES
    data.settings = data.settings.model_copy(update={"size": 8})
    return data


def saved(model: keras.Model, path: Path) -> bytes:
    export.save_keras(model, path)
    return path.read_bytes()


def test_equal_models_give_equal_bytes(model: keras.Model, tmp_path: Path) -> None:
    first = saved(model, tmp_path / "new folder/a.keras")
    assert saved(model, tmp_path / "b.keras") == first
    with zipfile.ZipFile(tmp_path / "b.keras") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert saved(build(1), tmp_path / "c.keras") == first
    assert saved(build(2), tmp_path / "d.keras") != first


def test_a_saved_model_predicts_the_same_without_its_optimizer(
    model: keras.Model, tmp_path: Path
) -> None:
    saved(model, tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert not loaded.compiled
    assert (tmp_path / "a.keras").stat().st_size < 6 * model.count_params()
    expected = np.asarray(model(IMAGES, training=False))
    assert np.asarray(loaded(IMAGES, training=False)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_the_classifier_predicts_what_keras_predicts(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = noisy()
    changes = {"target_precision": 0.4, "target_coverage": 0.8, "max_int8_loss": -1.0}
    export.write_classifier(model, data, PARAMS.train.model_copy(update=changes), "f1n6e7")
    classifier = Classifier()
    assert classifier.metadata.provenance["precision"] == "float32"
    assert FLOAT_MODEL.read_bytes() == Path("models/classifier/model.onnx").read_bytes()
    expected = np.asarray(model(IMAGES, training=False))
    assert np.ptp(expected, axis=0).min() > 1e-3  # different images, different predictions
    for count in (1, 2, 90):
        logits = classifier.logits(IMAGES[:count])
        assert np.abs(logits - expected[:count]).max() < 1e-5
    assert KERAS_MODEL.exists()
    metadata = classifier.metadata
    assert (metadata.class_ids, metadata.names) == ([0, 1, 2], ["a", "b", "c"])
    assert metadata.images == data.settings
    # The energy threshold accepts the wanted share of the validation photos.
    rows = data.rows(VALIDATION)
    energy = np.log(np.exp(expected[rows].astype(float)).sum(axis=1))
    assert (energy >= metadata.energy_threshold - 1e-4).sum() == np.ceil(0.8 * len(rows))
    correct = expected[rows].argmax(axis=1) == data.samples["label"].to_numpy()[rows]
    assert metadata.provenance["validation"]["accuracy"] == correct.mean()
    assert metadata.provenance["auxiliary_outliers"] == ["No sign"]
    assert metadata.provenance["fingerprint"] == "f1n6e7"


@pytest.mark.slow
def test_integers_are_deployed_if_they_lose_nothing(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = noisy()
    train = PARAMS.train.model_copy(update={"max_int8_loss": 1.0})
    export.write_classifier(model, data, train, "")
    classifier, size = Classifier(), FLOAT_MODEL.stat().st_size
    assert Path("models/classifier/model.onnx").stat().st_size < 0.4 * size
    assert classifier.metadata.provenance["precision"] == "int8"
    # Each validation photo counts as much as the parameter's unit says.
    rows = data.rows(VALIDATION)
    labels = data.samples["label"].to_numpy()[rows]
    accuracies = [
        (logits.argmax(axis=1) == labels).mean()
        for logits in (
            run(session(FLOAT_MODEL.read_bytes()), data.images[rows]),
            classifier.logits(data.images[rows]),
        )
    ]
    validation = classifier.metadata.provenance["validation"]
    assert validation["accuracy_lost_by_int8"] == pytest.approx(accuracies[0] - accuracies[1])
    difference = classifier.logits(IMAGES) - np.asarray(model(IMAGES, training=False))
    assert 0 < np.abs(difference).max() < 0.2 * np.ptp(classifier.logits(IMAGES))


@pytest.mark.parametrize(("size", "count"), [(32, 1024), (100, 104), (8, 2000)])
def test_calibration_images_are_bounded_by_their_pixels(size: int, count: int) -> None:
    data = prepared(real=2500)
    data.images = np.zeros((2500, size, size, 3), np.uint8)
    data.settings = data.settings.model_copy(update={"size": size})
    assert quantize.calibration(data).shape == (count, size, size, 3)
