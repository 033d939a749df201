"""Photos of what a network does not know: does it say "unknown"?

The field calls this open-set recognition or out-of-distribution detection. A stranger is a photo
of another photo set whose class has none of the names that the network has met, as its classes
or as outliers in training; capitals do not matter. Scored by the highest calibrated probability:
D. Hendrycks and K. Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
Examples in Neural Networks" (ICLR 2017).
"""

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs import datasets, images, progress
from signs.calibration import accepting_threshold
from signs.classifier import Classifier
from signs.errors import UserError

Floats = npt.NDArray[np.floating]


def answers(
    model: Classifier, name: str, count: int, batch_size: int, data: Path = datasets.DATA
) -> pd.DataFrame:
    """What a classifier says to strangers.

    Args:
        model: the exported classifier.
        name: a photo set.
        count: at most so many photos, drawn at random, of each class as many as of the others
            as far as it goes.
        batch_size: images per call of the classifier.
        data: the folder with the photo sets.

    Returns:
        One row a photo: file, name (of what it shows), answer (a name), confidence (0 to 1).

    Raises:
        UserError: the network has met all classes of the set, or none of its photos can be read.
    """
    dataset = datasets.read(name, data)
    table = dataset.table.assign(name=dataset.table["class_id"].map(dataset.names))
    met = [*model.about.names, *model.about.provenance["outliers"]]
    known = {name.casefold() for name in met}
    table = table[~table["name"].str.casefold().isin(known)].sample(frac=1, random_state=0)
    # One of each class, then a second of each: a small number still sees all classes.
    order = table.groupby("class_id").cumcount().to_numpy()
    table = table.iloc[np.argsort(order, kind="stable")][:count]
    if not len(table):
        raise UserError(f"evaluate.strangers: the network has met all classes of {name!r}.")
    reader = datasets.Reader(dataset.folder)
    parts = []
    with progress.bar(len(table), "strangers", " photos") as bar:
        for start in range(0, len(table), batch_size):
            batch = table.iloc[start : start + batch_size]
            parts.append(_answer(model, reader, batch))
            bar.update(len(batch))
    found = pd.concat(parts, ignore_index=True)
    if not len(found):
        raise UserError(f"evaluate.strangers: no photo of {name!r} can be read.")
    if len(found) < len(table):
        print(f"{len(table) - len(found)} photos of {name!r} cannot be read and do not count.")
    return found


def _answer(model: Classifier, reader: datasets.Reader, batch: pd.DataFrame) -> pd.DataFrame:
    photos, regions, kept = [], [], []
    sides = ["left", "top", "right", "bottom"]
    for row, (file, *region) in enumerate(batch[["file", *sides]].itertuples(index=False)):
        try:
            photos.append(images.decode(reader.read(file)))
        except (images.ImageError, OSError, zipfile.BadZipFile):
            continue
        regions.append(None if np.isnan(region[0]) else tuple(region))
        kept.append(row)
    batch = batch.iloc[kept]
    if not kept:
        return pd.DataFrame()
    found = model.probabilities(model.prepare(photos, regions))
    return pd.DataFrame(
        {
            "file": batch["file"].to_numpy(),
            "name": batch["name"].to_numpy(),
            "answer": np.array(model.about.names)[found.argmax(axis=1)],
            "confidence": found.max(axis=1),
        }
    )


def auroc(own: Floats, strange: Floats) -> float:
    """The probability that an own photo has a higher confidence than a stranger, 0 to 1.

    The area under the receiver operating characteristic, as Mann and Whitney's U (1947).
    """
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(own, strange).statistic / (len(own) * len(strange)))


def refused_at(accepted: float, own: Floats, strange: Floats) -> float:
    """Share of strangers below the confidence that this share of own photos reaches.

    One minus the false positive rate at that true positive rate (FPR@99TPR for 0.99).
    """
    return float((strange < accepting_threshold(own, accepted)).mean())
