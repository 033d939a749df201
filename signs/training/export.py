"""A trained model as files: `.keras`, ONNX and the classifier folder; same weights, same bytes."""

import json
import tempfile
import warnings
import zipfile
from pathlib import Path

import keras
import onnx

from signs import files
from signs.data.arrays import Prepared
from signs.evaluation import calibration
from signs.inference import classifier
from signs.params import Train
from signs.paths import CLASSIFIER, KERAS_MODEL
from signs.training.loop import predict


def save_keras(model: keras.Model, path: Path) -> None:
    """Save a model without its optimizer, so that equal models give equal bytes.

    Keras writes dates and ids of Python objects into the file; with them DVC would see another
    model after each run. A zip member without a date is of 1980.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A clone would be compiled like the original: three times as large.
    inference = type(model).from_config(model.get_config())
    inference.set_weights(model.get_weights())
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
    """Write Keras model and classifier; validation photos decide temperature and thresholds.

    The fingerprint is that of the training (`signs.pipeline`).
    """
    rows = data.rows("validation")
    labels = data.samples["label"].to_numpy()[rows]
    logits = predict(model, data.images[rows])
    temperature = calibration.fit_temperature(logits, labels)
    probabilities = classifier.probabilities(logits, temperature)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    energy = classifier.energy_scores(logits)
    save_keras(model, KERAS_MODEL)
    classifier.write(
        CLASSIFIER,
        to_onnx(model),
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
            "params": {
                "split": data.split.model_dump(),
                **train.model_dump(include={"network", "seed"}),
                "recipe": train.recipe.model_dump(),
            },
            "validation": {
                "images": len(rows),
                "accuracy": float(correct.mean()),
                "log_loss": calibration.log_loss(logits, labels, temperature),
            },
        },
    )
