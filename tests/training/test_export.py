"""Saving a model: equal models, equal bytes; ONNX answers what Keras answers."""

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

keras = pytest.importorskip("keras")

from signs.training import (
    export,
    networks,
)

IMAGES = np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), np.uint8)


def build(seed: int) -> "keras.Model":
    keras.utils.clear_session()  # layers get the names that they have in a process of their own
    keras.utils.set_random_seed(seed)
    model = networks.compact(16, 3, 4)
    # Batch normalisation that has seen nothing would hide a wrong conversion.
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([w + rng.uniform(0.1, 0.5, w.shape) for w in layer.get_weights()])
    model.compile("adam", "mse")
    model(IMAGES)
    return model


@pytest.fixture(scope="module")
def model() -> "keras.Model":
    return build(1)


def saved(model: "keras.Model", path: Path) -> bytes:
    export.save_keras(model, path)
    return path.read_bytes()


def test_saved_twice_gives_the_same_bytes(model: "keras.Model", tmp_path: Path) -> None:
    first = saved(model, tmp_path / "new folder/a.keras")
    assert saved(model, tmp_path / "b.keras") == first
    with zipfile.ZipFile(tmp_path / "b.keras") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_equal_models_give_equal_bytes(model: "keras.Model", tmp_path: Path) -> None:
    first = saved(model, tmp_path / "a.keras")
    assert saved(build(1), tmp_path / "b.keras") == first
    assert saved(build(2), tmp_path / "c.keras") != first


def test_saved_model_answers_the_same(model: "keras.Model", tmp_path: Path) -> None:
    saved(model, tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert not loaded.compiled
    assert (tmp_path / "a.keras").stat().st_size < 6 * model.count_params()
    answers = np.asarray(loaded(IMAGES, training=False))
    assert answers == pytest.approx(np.asarray(model(IMAGES, training=False)), abs=1e-6)


@pytest.mark.slow
def test_onnx_answers_what_keras_answers(model: "keras.Model") -> None:
    content = export.to_onnx(model)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    assert source.type == "tensor(uint8)"
    expected = np.asarray(model(IMAGES, training=False))
    assert np.ptp(expected, axis=0).min() > 1e-3  # different images, different answers
    for count in (1, 2, 9):
        (answers,) = session.run(None, {source.name: IMAGES[:count]})
        assert answers.dtype == np.float32
        assert answers.shape == (count, 4)
        assert np.abs(answers - expected[:count]).max() < 1e-5


def test_commit_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert export.code_commit() == "unknown"

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    for name in export.CODE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    git("add", ".")
    git("commit", "--quiet", "-m", "code")
    commit = git("rev-parse", "HEAD")
    assert export.code_commit() == commit
    (tmp_path / "notes.txt").write_text("")
    git("add", ".")
    git("commit", "--quiet", "-m", "notes")
    assert export.code_commit() == commit
    (tmp_path / "signs/file").write_text("changed")
    assert export.code_commit() == f"{commit}-dirty"
