"""The exported classifier: loads whole folders only, and says what it means."""

import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from signs.data import images
from signs.inference import classifier
from signs.inference.classifier import Classifier, ClassifierError, energy_scores, probabilities
from signs.params import ImageSettings

ROOT = Path(__file__).parents[2]
SETTINGS = ImageSettings(size=8, color="rgb", contrast="none", margin=0.0)
CLASS_IDS, NAMES = [3, 14, 20, 41], ["Red", "Green", "Blue", "Grey"]


def model(classes: int = 4, size: int = 8, channels: int = 3) -> bytes:
    """Logits: the mean of each colour channel (0 to 255) / 16, and 1 for the others."""
    weights = np.zeros((channels, classes), np.float32)
    weights[: min(channels, classes), : min(channels, classes)] = (
        np.eye(min(channels, classes)) / 16
    )
    bias = np.array([0, 0, 0, 1, 1, 1][:classes], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, channels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def write(folder: Path, **changes: object) -> Path:
    values = {
        "model": model(),
        "class_ids": CLASS_IDS,
        "names": NAMES,
        "settings": SETTINGS,
        "temperature": 2.0,
        "threshold": 0.6,
        "energy_threshold": 5.0,
        "provenance": {"commit": "abc", "metrics": {"accuracy": 0.5}},
    }
    classifier.write(folder, **(values | changes))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "classifier")


def plain(*colors: tuple[int, int, int]) -> np.ndarray:
    """Prepared images of one colour each."""
    return np.stack([np.full((8, 8, 3), color, np.uint8) for color in colors])


def test_answers(folder: Path) -> None:
    found = Classifier(folder)
    assert found.input_shape == (8, 8, 3)
    prepared = plain((255, 0, 0), (0, 160, 0), (0, 0, 80), (0, 0, 0))
    logits = found.logits(prepared)
    assert logits.dtype == np.float32
    assert logits[:, :3] == pytest.approx(np.diag([255, 160, 80, 0])[:, :3] / 16, abs=1e-4)
    assert logits.argmax(axis=1).tolist() == [0, 1, 2, 3]
    shares = found.probabilities(prepared)
    assert shares.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-12)
    expected = np.exp(logits[1] / 2.0)
    assert shares[1] == pytest.approx(expected / expected.sum(), abs=1e-6)


def test_known_is_what_is_sure_and_familiar(folder: Path) -> None:
    found = Classifier(folder)
    logits = np.array([[16, 0, 0, 0], [10, 10, 0, 0], [4, 0, -4, -4], [1, 1, 0, 0]], np.float32)
    scores = [math.log(sum(math.exp(x) for x in row)) for row in logits.tolist()]
    assert energy_scores(logits) == pytest.approx(scores, abs=1e-6)
    # Sure and familiar; torn between two; sure, but like nothing it was trained with; neither.
    assert found.known(logits).tolist() == [True, False, False, False]
    assert found.metadata.temperature == 2
    confidence = probabilities(logits, 2.0).max(axis=1)
    assert (confidence >= 0.6).tolist() == [True, False, True, False]
    assert (energy_scores(logits) >= 5).tolist() == [True, True, False, False]


def test_energy_scores_of_large_logits_stay_finite() -> None:
    assert energy_scores(np.array([[1e4, -1e4]], np.float32)) == pytest.approx([1e4])


def test_what_was_written_comes_back(folder: Path) -> None:
    about = Classifier(folder).metadata
    assert about.class_ids == CLASS_IDS
    assert about.names == NAMES
    assert about.images == SETTINGS
    assert (about.temperature, about.threshold, about.energy_threshold) == (2.0, 0.6, 5.0)
    assert about.provenance == {"commit": "abc", "metrics": {"accuracy": 0.5}}
    assert len(about.version) == 12
    assert about.sha256.startswith(about.version)


def test_same_content_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again")
    for name in (classifier.MODEL, classifier.METADATA):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_top_is_in_order(folder: Path) -> None:
    found = Classifier(folder)
    probabilities = found.probabilities(plain((40, 200, 90)))[0]
    top = found.top(probabilities, 3)
    assert [answer.name for answer in top] == ["Green", "Blue", "Red"]
    assert [answer.class_id for answer in top] == [14, 20, 3]
    assert [answer.confidence for answer in top] == sorted(probabilities, reverse=True)[:3]
    assert len(found.top(probabilities)) == 4
    tied = found.top(np.array([0.2, 0.3, 0.2, 0.3]), 4)
    assert [answer.class_id for answer in tied] == [14, 41, 3, 20]


def test_from_bytes_to_answer(folder: Path) -> None:
    found = Classifier(folder)
    photo = np.zeros((30, 60, 3), np.uint8)
    photo[:, :30], photo[:, 30:] = (0, 0, 255), (255, 0, 0)  # BGR: red, blue
    decoded = images.decode(cv2.imencode(".png", photo)[1].tobytes())
    regions = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), None]
    prepared = found.prepare([decoded] * 3, regions)
    assert prepared.shape == (3, 8, 8, 3)
    best = found.probabilities(prepared)
    assert [found.top(row, 1)[0].name for row in best[:2]] == ["Red", "Blue"]
    assert (found.prepare([decoded])[0] == prepared[2]).all()
    assert (images.prepare(decoded, SETTINGS) == prepared[2]).all()


def test_any_number_of_images(folder: Path) -> None:
    found = Classifier(folder, threads=1)
    assert found.prepare([]).shape == (0, 8, 8, 3)
    batch = np.random.default_rng(1).integers(0, 256, (70, 8, 8, 3), np.uint8)
    together = found.logits(batch)
    alone = np.concatenate([found.logits(batch[i : i + 1]) for i in range(70)])
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_probabilities_sum_to_one(scale: float) -> None:
    logits = (np.random.default_rng(2).normal(size=(50, 7)) * scale).astype(np.float32)
    result = classifier.probabilities(logits, 0.5)
    assert np.isfinite(result).all()
    assert result.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-12)
    assert (result.argmax(axis=1) == logits.argmax(axis=1)).all()


# folders that cannot be used


def refusal(folder: Path) -> str:
    with pytest.raises(ClassifierError) as caught:
        Classifier(folder)
    return str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    said = refusal(tmp_path / "never")
    assert f"no classifier in {tmp_path / 'never'}" in said
    assert "dvc repro" in said


@pytest.mark.parametrize("name", [classifier.MODEL, classifier.METADATA])
def test_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    said = refusal(folder)
    assert "no classifier" in said
    assert name in said


@pytest.mark.parametrize("length", [0, 50, -1])
def test_truncated_model(length: int, folder: Path) -> None:
    path = folder / classifier.MODEL
    path.write_bytes(path.read_bytes()[:length])
    assert f"{path} is truncated or belongs to another" in refusal(folder)


def test_model_of_another_classifier(folder: Path) -> None:
    (folder / classifier.MODEL).write_bytes(model(classes=5))
    assert "belongs to another" in refusal(folder)


@pytest.mark.parametrize(("ids", "names"), [(3, 3), (5, 5), (4, 3), (3, 4)])
def test_wrong_number_of_labels(ids: int, names: int, tmp_path: Path) -> None:
    write(tmp_path, class_ids=list(range(ids)), names=[f"sign {i}" for i in range(names)])
    assert f"tells 4 classes apart, classifier.json names {names}" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b'{"version": "1"}'])
def test_damaged_description(content: bytes, folder: Path) -> None:
    (folder / classifier.METADATA).write_bytes(content)
    assert f"{folder / classifier.METADATA} cannot be used" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", 0), ("threshold", 1.5), ("names", "Stop"), ("images", {}), ("extra", 1)],
)
def test_unusable_description(key: str, value: object, folder: Path) -> None:
    path = folder / classifier.METADATA
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    said = refusal(folder)
    assert f"{path} cannot be used" in said
    assert key in said


def test_model_of_another_image_size(tmp_path: Path) -> None:
    write(tmp_path, model=model(size=16))
    assert f"{tmp_path / classifier.MODEL} cannot be used" in refusal(tmp_path)


def test_no_model_at_all(tmp_path: Path) -> None:
    write(tmp_path, model=b"not ONNX")
    assert f"{tmp_path / classifier.MODEL} cannot be used" in refusal(tmp_path)


HEAVY = ("tensorflow", "keras", "pandas", "matplotlib", "scipy", "dvc", "tf2onnx")


def test_serving_needs_no_training_packages() -> None:
    code = (
        "import sys, signs.inference.classifier\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "print('onnxruntime' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split("\n")[:2] == ["[]", "True"]
