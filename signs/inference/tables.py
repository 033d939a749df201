"""Predict a table of photos: the one loop from files to logits, outside of the service."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from signs import progress
from signs.data import images, layouts
from signs.errors import UserError
from signs.inference import classifier
from signs.inference.classifier import Classifier, Inputs, Logits
from signs.inference.ensemble import Ensemble

Model = Classifier | Ensemble


def predict_table(
    model: Model, folder: Path, table: pd.DataFrame, batch: int, expected: Inputs | None = None
) -> tuple[pd.DataFrame, Logits]:
    """The rows whose photo can be read, and their logits, float32 (N, classes).

    Args:
        model: what predicts.
        folder: of the data set.
        table: one row a photo: file, and left/top/right/bottom as `layouts.Dataset` has them.
        batch: images per call of the model.
        expected: what `model.prepare` must give for the photos, by the table's index.

    Raises:
        UserError: no photo can be read, or one is not prepared as expected.
    """
    reader = layouts.Reader(folder)
    kept, parts = [], []
    with progress.bar(len(table), f"predict {folder.name}", " photos") as bar:
        for start in range(0, len(table), batch):
            part = table.iloc[start : start + batch]
            decoded = [_decode(reader, file) for file in part["file"]]
            rows = part[[photo is not None for photo in decoded]]
            photos = [photo for photo in decoded if photo is not None]
            inputs = model.prepare(photos, layouts.regions(rows))
            if expected is not None and not np.array_equal(inputs, expected[part.index]):
                raise UserError(
                    f"{folder.name}: photos are not prepared as they were for training. "
                    "Run `dvc repro -f preprocess` and then `dvc repro`."
                )
            kept.append(rows)
            parts.append(model.logits(inputs))
            bar.update(len(part))
    rows = pd.concat(kept)
    if not len(rows):
        raise UserError(f"No photo of {folder} can be read.")
    if len(rows) < len(table):
        print(f"{len(table) - len(rows)} photos of {folder} cannot be read and do not count.")
    return rows, np.concatenate(parts)


def _decode(reader: layouts.Reader, file: str) -> images.Image | None:
    try:
        return images.decode(reader.read(file))
    except (images.ImageError, OSError, zipfile.BadZipFile):
        return None


def predictions_of(model: Classifier, logits: Logits) -> pd.DataFrame:
    """Logits (N, classes) → N rows: what the classifier predicts and how sure it is."""
    probabilities, accepted = model.classify(logits)
    label = probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "prediction": np.array(model.metadata.class_ids)[label],  # a class id
            "predicted_label": label,
            "confidence": probabilities.max(axis=1),
            "uncalibrated_confidence": classifier.probabilities(logits).max(axis=1),
            "energy": classifier.energy_scores(logits),
            "accepted": accepted,
        }
    )
