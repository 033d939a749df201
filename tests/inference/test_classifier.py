"""The exported classifier: loads whole folders only, and its numbers mean what they say."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from signs.data import images
from signs.inference import classifier
from signs.inference.classifier import Classifier, ClassifierError, energy_scores, probabilities
from tests.inference.small import MEANS, NAMES, PROVENANCE, SETTINGS, model, plain, png, write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "classifier")


def test_logits_and_calibrated_probabilities(folder: Path) -> None:
    found = Classifier(folder)
    assert found.input_shape == (8, 8, 3)
    prepared = plain((255, 0, 0), (0, 160, 0), (0, 0, 80), (0, 0, 0))
    logits = found.logits(prepared)
    assert logits.dtype == np.float32
    expected = np.array([[255, 0, 0, 16], [0, 160, 0, 16], [0, 0, 80, 16], [0, 0, 0, 16]]) / 16
    assert logits == pytest.approx(expected, abs=1e-4)
    assert found.probabilities(prepared) == pytest.approx(softmax(expected / 2, axis=1), abs=1e-5)


def test_a_prediction_is_accepted_if_confidence_and_energy_suffice(folder: Path) -> None:
    found = Classifier(folder)
    # Both suffice; two classes are likely; confident, but unlike the training photos; neither.
    logits = np.array([[16, 0, 0, 0], [10, 10, 0, 0], [4, 0, -4, -4], [1, 1, 0, 0]], np.float32)
    confidence, accepted = found.classify(logits)
    assert accepted.tolist() == found.accepted(logits).tolist() == [True, False, False, False]
    assert confidence == pytest.approx(softmax(logits / 2, axis=1))
    assert (confidence.max(axis=1) >= 0.6).tolist() == [True, False, True, False]
    assert (energy_scores(logits) >= 5).tolist() == [True, True, False, False]


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_probabilities_and_energy_scores_equal_scipys(scale: float) -> None:
    logits = (np.random.default_rng(2).normal(size=(50, 7)) * scale).astype(np.float32)
    assert probabilities(logits, 0.5) == pytest.approx(softmax(logits / 0.5, axis=1), abs=1e-6)
    assert energy_scores(logits) == pytest.approx(logsumexp(logits, axis=1), rel=1e-5)


def test_metadata_is_read_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    metadata = Classifier(folder).metadata
    assert (metadata.class_ids, metadata.names) == ([3, 14, 20, 41], NAMES)
    assert metadata.images == SETTINGS
    assert (metadata.temperature, metadata.threshold, metadata.energy_threshold) == (2.0, 0.6, 5.0)
    assert metadata.provenance == PROVENANCE
    assert metadata.version == metadata.sha256[:12]
    again = write(tmp_path / "again")
    for name in (classifier.MODEL, classifier.METADATA):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_photos_and_regions_are_prepared_as_in_training(folder: Path) -> None:
    found = Classifier(folder)
    photo = np.concatenate([*plain((255, 0, 0), (0, 0, 255), size=30)], axis=1)
    decoded = images.decode(png(photo))
    prepared = found.prepare([decoded] * 3, [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), None])
    assert prepared.shape == (3, 8, 8, 3)
    assert found.logits(prepared[:2]).argmax(axis=1).tolist() == [0, 2]
    assert (found.prepare([decoded])[0] == prepared[2]).all()
    assert (images.prepare(decoded, SETTINGS) == prepared[2]).all()


def test_any_number_of_images(folder: Path) -> None:
    found = Classifier(folder, threads=1)
    assert found.prepare([]).shape == (0, 8, 8, 3)
    batch = np.random.default_rng(1).integers(0, 256, (70, 8, 8, 3), np.uint8)
    alone = np.concatenate([found.logits(batch[i : i + 1]) for i in range(70)])
    assert found.logits(batch) == pytest.approx(alone, abs=1e-5)


# Folders that cannot be used.


def refusal(folder: Path) -> str:
    with pytest.raises(ClassifierError) as caught:
        Classifier(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["", classifier.MODEL, classifier.METADATA])
def test_a_missing_file_or_folder(name: str, folder: Path) -> None:
    (folder / name).rename(folder.with_name("moved"))
    message = refusal(folder)
    assert f"no classifier in {folder}" in message
    assert f"{name} is missing). `dvc repro`" in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: model(bias=(0, 0, 0, 2)),
    ],
    ids=["empty", "one byte short", "another model"],
)
def test_a_model_that_is_not_the_one_described(
    damage: Callable[[bytes], bytes], folder: Path
) -> None:
    path = folder / classifier.MODEL
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} is truncated or belongs to another" in refusal(folder)


@pytest.mark.parametrize(("ids", "names"), [(3, 3), (5, 5), (4, 3), (3, 4)])
def test_a_wrong_number_of_classes(ids: int, names: int, tmp_path: Path) -> None:
    write(tmp_path, class_ids=list(range(ids)), names=[f"sign {i}" for i in range(names)])
    assert f"has 4 classes, classifier.json has {ids} class ids and {names} names" in refusal(
        tmp_path
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b'{"version": "1"}'])
def test_damaged_metadata(content: bytes, folder: Path) -> None:
    (folder / classifier.METADATA).write_bytes(content)
    assert f"{folder / classifier.METADATA} cannot be used" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", 0), ("threshold", 1.5), ("names", "Stop"), ("images", {}), ("extra", 1)],
)
def test_metadata_with_a_bad_value(key: str, value: object, folder: Path) -> None:
    path = folder / classifier.METADATA
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert re.search(f"{path} cannot be used: .*\\b{key}\\b", refusal(folder), re.DOTALL)


@pytest.mark.parametrize("content", [model(np.zeros((16, 16, 3, 4))), model(MEANS[:, :, :1]), b"?"])
def test_a_model_for_other_images_or_none_at_all(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, content)
    assert f"{tmp_path / classifier.MODEL} cannot be used" in refusal(tmp_path)
