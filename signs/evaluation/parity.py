"""Whether the exported models predict what the trained Keras model predicts."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd

from signs.errors import UserError
from signs.evaluation import metrics
from signs.inference.classifier import (
    MODEL,
    Classifier,
    Inputs,
    Logits,
    probabilities,
    run,
    session,
)
from signs.paths import CLASSIFIER

# Enough to meet a difference; Keras needs seconds for them where ONNX Runtime needs one.
IMAGES = 1000
BATCH = 256


def compare(
    model: Classifier, onnx_file: Path, keras_file: Path, images: Inputs, allowed: float
) -> dict[str, float]:
    """Compare exported models with the Keras model on prepared images, at most `IMAGES` of them.

    Returned are onnx_max_difference, between the ONNX file of floats and Keras (of a probability,
    rounded up to a power of ten because its digits change with the processor), and
    same_predictions, of the classifier and Keras (share of images).

    Raises:
        UserError: the Keras model cannot be read, or the difference is larger than allowed, so
            what is exported is not what was trained.
    """
    if len(images) > IMAGES:
        rows = np.random.default_rng(0).choice(len(images), IMAGES, replace=False)
        images = images[np.sort(rows)]
    try:
        trained = keras.models.load_model(keras_file)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{keras_file} cannot be read ({error}). If it is damaged in DVC's cache, too, "
            "`dvc repro -f train` makes it anew."
        ) from error
    parts = np.split(images, range(BATCH, len(images), BATCH))
    # `predict` waits for TensorFlow's tuner, as signs/training/loop.py explains.
    original = np.concatenate([trained.predict_on_batch(part) for part in parts])
    exported = run(session(onnx_file.read_bytes()), images)
    deployed = np.concatenate([model.logits(part) for part in parts])
    difference = np.abs(probabilities(original) - probabilities(exported)).max()
    if not difference <= allowed:
        raise UserError(
            f"ONNX and Keras differ by {difference:.2g} in a probability; "
            f"evaluate.max_onnx_difference allows {allowed:g}."
        )
    same = (original.argmax(axis=1) == deployed.argmax(axis=1)).mean()
    return {
        "onnx_max_difference": float(f"{10 ** np.ceil(np.log10(max(difference, 1e-12))):.0e}"),
        "same_predictions": float(same),
    }


def formats(
    model: Classifier, logits: Logits, onnx_file: Path, samples: pd.DataFrame, images: Inputs
) -> dict[str, dict[str, float]]:
    """The deployed classifier beside the ONNX file of floats, by "int8" and "float32".

    Of each: accuracy, ece and accepted, as of `metrics.with_coverage`, on prepared images and their
    samples; megabytes. Empty if the classifier is one of floats itself. `logits` are what it gives
    for the images, float32 (N, classes).
    """
    if model.metadata.provenance["precision"] != "int8":
        return {}
    table = {}
    floats = run(session(onnx_file.read_bytes()), images)
    compared = {"int8": (CLASSIFIER / MODEL, logits), "float32": (onnx_file, floats)}
    for name, (file, given) in compared.items():
        found = metrics.with_coverage(samples, given, model)
        table[name] = {key: found[key] for key in ("accuracy", "ece", "accepted")}
        table[name]["megabytes"] = round(file.stat().st_size / 1e6, 3)
    return table
