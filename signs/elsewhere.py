"""Another photo set before a network: signs that it knows, and strangers.

Photos of classes that have the name of one of the network's tell how well it reads signs that
other people photographed, or reads photos where it trained on drawings. A stranger is a photo
whose class has none of the names that the network has met, as its classes or as outliers in
training; it should be "unknown". The field calls that open-set recognition or
out-of-distribution detection. Capitals in names do not matter.
"""

import re
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs import datasets, images, progress
from signs.calibration import accepting_threshold
from signs.classifier import Classifier
from signs.committee import Committee
from signs.errors import UserError

Floats = npt.NDArray[np.floating]
Tracks = Literal["all", "odd", "even"]

STRANGER = -1


def answers(
    model: Classifier | Committee,
    name: str,
    count: int,
    tracks: Tracks,
    batch_size: int,
    data: Path = datasets.DATA,
) -> tuple[pd.DataFrame, npt.NDArray[np.float32]]:
    """What a classifier says to the photos of another set.

    If the set has test photos of its own, those alone are shown, whatever `tracks` says.

    Args:
        model: the exported classifier, or several.
        name: a photo set.
        count: at most so many photos of the network's classes and so many strangers, drawn at
            random, of each class as many as of the others as far as it goes.
        tracks: all, or those with odd or even numbers alone: drawings, say, may be made in view
            of one half and measured on the other.
        batch_size: images per call of the classifier.
        data: the folder with the photo sets.

    Returns:
        One row a photo: file, group (its track), name (of what it shows), label (of the
        network's class, or `STRANGER`); and its logits, float32 (N, classes).

    Raises:
        UserError: the set has no numbered tracks, the network met all its classes as outliers,
            or none of its photos can be read.
    """
    dataset = datasets.read(name, data)
    table = dataset.table.rename(columns={"track": "group"})
    tested = table["fixed_split"] == "test"
    table = table[tested if tested.any() else _has_tracks(table["group"], tracks, name)]
    table = table.assign(name=table["class_id"].map(dataset.names))
    names = table["name"].str.casefold()
    label_of = {known.casefold(): label for label, known in enumerate(model.about.names)}
    table["label"] = names.map(label_of).fillna(STRANGER).astype(int)
    outliers = {known.casefold() for known in model.about.provenance["outliers"]}
    met = (table["label"] == STRANGER) & names.isin(outliers)
    table = table[~met].sample(frac=1, random_state=0)
    # One of each class, then a second of each: a small number still sees all classes.
    table = table.iloc[np.argsort(table.groupby("class_id").cumcount(), kind="stable")]
    table = table.groupby(table["label"] == STRANGER).head(count)
    if not len(table):
        raise UserError(
            f"evaluate.elsewhere: of all classes of {name!r} the network was taught in training "
            "that they are none of its own, so nothing can be measured with them."
        )
    reader = datasets.Reader(dataset.folder)
    kept, parts = [], []
    with progress.bar(len(table), name, " photos") as bar:
        for start in range(0, len(table), batch_size):
            batch = table.iloc[start : start + batch_size]
            readable, photos, regions = _read(reader, batch)
            kept.append(readable)
            parts.append(model.logits(model.prepare(photos, regions)))
            bar.update(len(batch))
    found, logits = pd.concat(kept, ignore_index=True), np.concatenate(parts)
    if not len(found):
        raise UserError(f"evaluate.elsewhere: no photo of {name!r} can be read.")
    if len(found) < len(table):
        print(f"{len(table) - len(found)} photos of {name!r} cannot be read and do not count.")
    return found[["file", "group", "name", "label"]], logits


def _has_tracks(groups: pd.Series, tracks: Tracks, name: str) -> pd.Series:
    if tracks == "all":
        return pd.Series(True, groups.index)
    numbers = groups.str.extract(r"(\d+)$", flags=re.ASCII)[0]
    if numbers.isna().any():
        raise UserError(
            f"evaluate.elsewhere_tracks is {tracks}, but {name!r} has no numbered tracks; "
            "set it to all."
        )
    return numbers.astype(int) % 2 == (1 if tracks == "odd" else 0)


def _read(
    reader: datasets.Reader, batch: pd.DataFrame
) -> tuple[pd.DataFrame, list[images.Image], list[images.Region | None]]:
    """The rows whose photo can be read, their photos and regions."""
    photos, kept = [], []
    for file in batch["file"]:
        try:
            photos.append(images.decode(reader.read(file)))
        except (images.ImageError, OSError, zipfile.BadZipFile):
            kept.append(False)
        else:
            kept.append(True)
    batch = batch[kept]
    return batch, photos, datasets.regions(batch)


def auroc(own: Floats, strange: Floats) -> float:
    """The probability that an own photo has a higher score than a stranger, 0 to 1.

    The area under the receiver operating characteristic, as Mann and Whitney's U (1947).
    """
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(own, strange).statistic / (len(own) * len(strange)))


def refused_at(accepted: float, own: Floats, strange: Floats) -> float:
    """Share of strangers below the score that this share of own photos reaches.

    One minus the false positive rate at that true positive rate (FPR@99TPR for 0.99).
    """
    return float((strange < accepting_threshold(own, accepted)).mean())
