"""Predict a table of photos: the one loop from files to logits, outside of the service."""

import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs import progress
from signs.data import images, layouts
from signs.errors import UserError
from signs.inference import classifier
from signs.inference.classifier import Classifier, Metadata

Logits = npt.NDArray[np.float32]
Inputs = npt.NDArray[np.uint8]


class Model(Protocol):
    """A classifier or an ensemble."""

    metadata: Metadata

    def prepare(
        self, photos: list[images.Image], regions: list[images.Region | None] | None = None
    ) -> Inputs:
        """Decoded photos → inputs of the network."""

    def logits(self, prepared: Inputs) -> Logits:
        """Prepared images, uint8 (N, size, size, channels) → logits (N, classes)."""


def predict_table(
    model: Model,
    folder: Path,
    table: pd.DataFrame,
    batch_size: int,
    expected: Inputs | None = None,
) -> tuple[pd.DataFrame, Logits]:
    """Logits from the photos themselves, as the service computes them.

    Args:
        model: what predicts.
        folder: of the data set.
        table: one row a photo: file, and left/top/right/bottom as `layouts.Dataset` has them.
        batch_size: images per call of the model.
        expected: what `model.prepare` must give for the photos, by the table's index.

    Returns:
        The rows whose photo can be read, and their logits, float32 (N, classes).

    Raises:
        UserError: no photo can be read, or one is not prepared as expected.
    """
    reader = layouts.Reader(folder)
    kept, parts = [], []
    with progress.bar(len(table), f"predict {folder.name}", " photos") as bar:
        for start in range(0, len(table), batch_size):
            batch = table.iloc[start : start + batch_size]
            rows, photos = _decode(reader, batch)
            inputs = model.prepare(photos, layouts.regions(rows))
            if expected is not None and not np.array_equal(inputs, expected[batch.index]):
                raise UserError(
                    f"{folder.name}: photos are not prepared as they were for training. "
                    "Run `dvc repro -f preprocess` and then `dvc repro`."
                )
            kept.append(rows)
            parts.append(model.logits(inputs))
            bar.update(len(batch))
    rows = pd.concat(kept)
    if not len(rows):
        raise UserError(f"No photo of {folder} can be read.")
    if len(rows) < len(table):
        print(f"{len(table) - len(rows)} photos of {folder} cannot be read and do not count.")
    return rows, np.concatenate(parts)


def _decode(reader: layouts.Reader, batch: pd.DataFrame) -> tuple[pd.DataFrame, list[images.Image]]:
    """The rows whose photo can be read, and their photos."""
    photos, readable = [], []
    for file in batch["file"]:
        try:
            photos.append(images.decode(reader.read(file)))
        except (images.ImageError, OSError, zipfile.BadZipFile):
            readable.append(False)
        else:
            readable.append(True)
    return batch[readable], photos


def predictions_of(model: Classifier, logits: Logits) -> pd.DataFrame:
    """Logits (N, classes) → N rows: what the classifier predicts and how sure it is.

    Returns:
        Columns prediction (class id), predicted_label, confidence, uncalibrated_confidence,
        energy and accepted.
    """
    probabilities, accepted = model.classify(logits)
    label = probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "prediction": np.array(model.metadata.class_ids)[label],
            "predicted_label": label,
            "confidence": probabilities.max(axis=1),
            "uncalibrated_confidence": classifier.probabilities(logits).max(axis=1),
            "energy": classifier.energy_scores(logits),
            "accepted": accepted,
        }
    )
