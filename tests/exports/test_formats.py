"""Whatever runtime reads an export, it predicts what the classifier predicts."""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from signs import paths
from signs.errors import UserError
from signs.exports import comparison, formats
from signs.inference.classifier import Classifier, ClassifierError, probabilities
from tests.exports.conftest import SIZE, Trained, photos

IMAGES = photos(np.arange(200) % 4, 2)
BROWSER = shutil.which("chromium")
EXACT = {"onnx", "litert", "openvino"}


@pytest.fixture(scope="module")
def source(trained: Trained) -> formats.Source:
    models = (trained.folder / path for path in (paths.FLOAT_MODEL, paths.KERAS_MODEL))
    return formats.Source(trained.folder / paths.CLASSIFIER, *models, trained.data.images[:300])


@pytest.fixture(scope="module")
def exported(source: formats.Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for name in formats.FORMATS:
        formats.export(source, name, folder / name)
    return folder


@pytest.fixture(scope="module")
def expected(source: formats.Source) -> np.ndarray:
    logits = Classifier(source.folder).logits(IMAGES)
    assert (logits.argmax(axis=1) == np.arange(200) % 4).mean() > 0.9
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("count", [1, 7, 200])
def test_each_format_predicts_the_same(
    name: str, count: int, exported: Path, expected: np.ndarray
) -> None:
    logits = formats.load(name, exported / name)(IMAGES[:count])
    change = np.abs(probabilities(logits) - probabilities(expected[:count])).max(axis=1)
    if name in EXACT:
        assert change.max() < 1e-3
        assert (logits.argmax(axis=1) == expected[:count].argmax(axis=1)).all()
    else:
        assert 0 < change.mean() < 0.02
        assert (logits.argmax(axis=1) == expected[:count].argmax(axis=1)).mean() >= 0.995


@pytest.mark.slow
def test_opencv_predicts_the_same(exported: Path, expected: np.ndarray) -> None:
    network = cv2.dnn.readNetFromONNX(str(exported / "onnx/model.onnx"))
    logits = []
    for image in IMAGES:
        network.setInput(image[None])
        logits.append(network.forward()[0])
    assert np.abs(probabilities(np.array(logits)) - probabilities(expected)).max() < 1e-3


@pytest.mark.slow
def test_integers_take_a_third_of_the_space(exported: Path) -> None:
    sizes = {name: (exported / name / form.file).stat().st_size for name, form in FORMATS}
    assert sizes["onnx-int8"] < 0.7 * sizes["onnx"]
    assert sizes["litert-int8"] < 0.7 * sizes["litert"]


FORMATS = formats.FORMATS.items()


@pytest.mark.slow
def test_each_export_says_what_its_classes_are(exported: Path, source: formats.Source) -> None:
    original = Classifier(source.folder).metadata
    for name, _ in FORMATS:
        content = json.loads((exported / name / "classifier.json").read_text())
        assert content["names"] == original.names
        assert content["temperature"] == original.temperature
        assert content["provenance"]["format"] == name
    # The ONNX files lie in folders that the service and `signs predict` take.
    assert Classifier(exported / "onnx-int8").metadata.names == original.names


@pytest.mark.slow
def test_what_is_not_whole_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported / "litert", tmp_path / "litert")
    content = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(content[:-9])
    with pytest.raises(ClassifierError, match=r"model\.tflite is truncated"):
        formats.load("litert", folder)


def test_a_missing_runtime_is_named(
    source: formats.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    kept = tmp_path / "openvino/classifier.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    with pytest.raises(UserError, match="needs the package openvino: `make setup-dev`"):
        formats.export(source, "openvino", tmp_path / "openvino")
    assert kept.exists()


@pytest.mark.slow
def test_the_comparison_tells_what_is_kept(
    exported: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "ROUND_SECONDS", 0.01)
    original = Classifier(trained.folder / paths.CLASSIFIER)
    folders = {name: exported / name for name in ("onnx", "onnx-int8")}
    samples = trained.data.samples.assign(group="")
    table = comparison.compare(original, folders, samples, trained.data.images)
    assert table.loc["onnx", ["same_predictions", "max_difference"]].tolist() == [1, 0]
    assert 0.99 < table.loc["onnx-int8", "same_predictions"] <= 1
    assert 0 < table.loc["onnx-int8", "max_difference"] < 0.5
    correct = original.logits(trained.data.images).argmax(axis=1) == samples["label"]
    assert table.loc["onnx", "accuracy"] == round(correct.mean(), 5)
    assert (table[["images_per_second_1", "images_per_second_16"]] > 0).all(axis=None)
    size = sum(file.stat().st_size for file in (exported / "onnx").iterdir())
    assert table.loc["onnx", "megabytes"] == size / 1e6


PAGE = """<!doctype html><script src="ort.wasm.min.js"></script><script>
async function run(shape, bytes) {
  ort.env.wasm.numThreads = 1
  const session = await ort.InferenceSession.create("model.onnx")
  const image = new ort.Tensor("uint8", Uint8Array.from(bytes), shape)
  return Array.from((await session.run({image}))[session.outputNames[0]].data)
}
</script>"""


@pytest.fixture(scope="module")
def site(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with onnxruntime-web, from npm, and the exported ONNX file."""
    folder = tmp_path_factory.mktemp("site")
    packed = subprocess.run(
        ["npm", "pack", "--silent", "onnxruntime-web"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    for file in (folder / "package/dist").glob("ort*wasm*"):
        file.rename(folder / file.name)
    shutil.copy(exported / "onnx/model.onnx", folder)
    (folder / "index.html").write_text(PAGE)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


@pytest.mark.network
@pytest.mark.skipif(not BROWSER or not shutil.which("npm"), reason="needs chromium and npm")
def test_a_browser_predicts_the_same(site: str, expected: np.ndarray) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(site)
        shape = [len(IMAGES), SIZE, SIZE, 3]
        logits = page.evaluate(
            "([shape, bytes]) => run(shape, bytes)", [shape, IMAGES.ravel().tolist()]
        )
        browser.close()
    logits = np.array(logits).reshape(expected.shape)
    assert np.abs(probabilities(logits) - probabilities(expected)).max() < 1e-3
