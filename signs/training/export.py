"""A trained model as files: `.keras`, ONNX and the classifier folder; same weights, same bytes."""

import json
import tempfile
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import onnx

from signs import files
from signs.data.arrays import Prepared
from signs.evaluation import calibration
from signs.inference import classifier
from signs.inference.classifier import Inputs, Logits
from signs.params import Train
from signs.paths import CLASSIFIER, FLOAT_MODEL, KERAS_MODEL
from signs.training.loop import predict
from signs.training.normalization import plain
from signs.training.quantize import calibration as calibration_images
from signs.training.quantize import quantize


def save_keras(model: keras.Model, path: Path) -> None:
    """Save a model without its optimizer, so that equal models give equal bytes.

    Keras writes dates and ids of Python objects into the file; with them DVC would see another
    model after each run. A zip member without a date is of 1980.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    inference = plain(model)  # compiled, it would be three times as large
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "model.keras"
        inference.save(raw)
        with (
            files.replaced(path) as unfinished,
            zipfile.ZipFile(raw) as source,
            zipfile.ZipFile(unfinished, "w") as target,
        ):
            for name in sorted(source.namelist()):
                data = source.read(name)
                if name == "metadata.json":
                    data = json.dumps({**json.loads(data), "date_saved": ""}).encode()
                if name == "config.json":
                    config = json.loads(data, object_hook=_without_id)
                    data = json.dumps(config, sort_keys=True).encode()
                target.writestr(zipfile.ZipInfo(name), data)


def _without_id(block: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in block.items() if key != "shared_object_id"}


def to_onnx(model: keras.Model) -> bytes:
    """Convert a model: uint8 images of any batch size → logits."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # tf2onnx's, about NumPy's old names
        path = Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        converted = onnx.load(path)
    # Names a TensorFlow function whose number counts what was traced before.
    converted.graph.doc_string = ""
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


def write_classifier(model: keras.Model, data: Prepared, train: Train, fingerprint: str) -> None:
    """Write the trained model as Keras and ONNX files, and the classifier.

    The classifier computes with 8-bit integers if validation photos show that nothing is lost.
    They decide temperature and thresholds, too. The fingerprint is that of the training
    (`signs.pipeline`).
    """
    save_keras(model, KERAS_MODEL)
    FLOAT_MODEL.write_bytes(to_onnx(model))
    rows = data.rows("validation")
    images, labels = data.images[rows], data.samples["label"].to_numpy()[rows]
    precision, content, logits = "float32", FLOAT_MODEL.read_bytes(), predict(model, images)
    lost, smaller, smaller_logits = _int8(data, images, labels, logits)
    if lost <= train.max_int8_loss:
        precision, content, logits = "int8", smaller, smaller_logits
    temperature = calibration.fit_temperature(logits, labels)
    probabilities = classifier.probabilities(logits, temperature)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    energy = classifier.energy_scores(logits)
    classifier.write(
        CLASSIFIER,
        content,
        class_ids=data.labels["ClassId"].tolist(),
        names=data.labels["Name"].tolist(),
        images=data.settings,
        temperature=temperature,
        threshold=calibration.precision_threshold(confidence, correct, train.target_precision),
        energy_threshold=calibration.coverage_threshold(energy, train.target_coverage),
        provenance={
            "fingerprint": fingerprint,
            "dataset": data.dataset,
            "data": data.digest,
            "auxiliary_outliers": data.outlier_names,
            "precision": precision,
            "params": {
                "split": data.split.model_dump(),
                **train.model_dump(include={"network", "seed"}),
                "recipe": train.recipe.model_dump(),
            },
            "validation": {
                "images": len(rows),
                "accuracy": float(correct.mean()),
                "log_loss": calibration.log_loss(logits, labels, temperature),
                "accuracy_lost_by_int8": lost,
            },
        },
    )


def _int8(
    data: Prepared, images: Inputs, labels: npt.NDArray[np.int64], logits: Logits
) -> tuple[float, bytes, Logits]:
    """Accuracy that a model of 8-bit integers loses, the model, and its logits of the images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize(FLOAT_MODEL, path, calibration_images(data))
        content = path.read_bytes()
    smaller = classifier.run(classifier.session(content), images)
    right, still_right = ((each.argmax(axis=1) == labels).mean() for each in (logits, smaller))
    return float(right - still_right), content, smaller
