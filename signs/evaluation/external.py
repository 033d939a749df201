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

from signs import progress
from signs.data import images, layouts
from signs.errors import UserError
from signs.evaluation.calibration import coverage_threshold
from signs.inference.classifier import Classifier, Metadata
from signs.inference.ensemble import Ensemble

Floats = npt.NDArray[np.floating]
Tracks = Literal["all", "odd", "even"]

OOD = -1


def answers(
    model: Classifier | Ensemble,
    name: str,
    count: int,
    tracks: Tracks,
    batch_size: int,
    data: Path = layouts.DATA,
) -> tuple[pd.DataFrame, npt.NDArray[np.float32], str]:
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
        network's class, or `OOD`); its logits, float32 (N, classes); and which part of
        the set was shown: "all photos", "test photos", "odd tracks" or "even tracks".

    Raises:
        UserError: the set has no such tracks, numbers for names, or no photo that can be read,
            or the network met all its classes as outliers.
    """
    dataset = layouts.read(name, data)
    table = dataset.table.rename(columns={"track": "group"})
    tested = table["fixed_split"] == "test"
    if tested.any():
        table, part = table[tested], "test photos"
    elif tracks == "all":
        part = "all photos"
    else:
        table, part = _half(table, tracks, name), f"{tracks} tracks"
    table = table.assign(name=table["class_id"].map(dataset.names))
    table = _compared(table, model.metadata, name).sample(frac=1, random_state=0)
    # One of each class, then a second of each: a small number still sees all classes.
    table = table.iloc[np.argsort(table.groupby("class_id").cumcount(), kind="stable")]
    table = table.groupby(table["label"] == OOD).head(count)
    if not len(table):
        raise UserError(
            f"evaluate.external_set: of all classes of {name!r} the network was taught in training "
            "that they are none of its own, so nothing can be measured with them."
        )
    reader = layouts.Reader(dataset.folder)
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
        raise UserError(f"evaluate.external_set: no photo of {name!r} can be read.")
    if len(found) < len(table):
        print(f"{len(table) - len(found)} photos of {name!r} cannot be read and do not count.")
    return found[["file", "group", "name", "label"]], logits, part


def _half(table: pd.DataFrame, tracks: Tracks, name: str) -> pd.DataFrame:
    """The rows of odd or of even tracks."""
    numbers = table["group"].str.extract(r"(\d+)$", flags=re.ASCII)[0]
    half = table[pd.to_numeric(numbers) % 2 == (1 if tracks == "odd" else 0)]
    if numbers.isna().any() or not len(half):
        raise UserError(
            f"evaluate.external_tracks is {tracks}, but {name!r} has no such numbered tracks; "
            "set it to all."
        )
    return half


def _compared(table: pd.DataFrame, about: Metadata, name: str) -> pd.DataFrame:
    """The rows, with the column `label`, of the network's classes and of strangers."""
    names = table["name"].str.casefold()
    known = pd.Series(about.names).str.casefold()
    label_of = {known_name: label for label, known_name in known.items()}
    label = names.map(label_of).fillna(OOD).astype(int)
    if names[label != OOD].str.isdecimal().any():
        raise UserError(
            f"evaluate.external_set: classes of {name!r} and of the network have numbers for names, "
            "which say nothing about what they show. Put a labels.csv into both sets."
        )
    # Nobody can tell which of two classes of the same name is meant.
    unclear = names.isin(known[known.duplicated()])
    outliers = {outlier.casefold() for outlier in about.provenance["auxiliary_outliers"]}
    met = (label == OOD) & names.isin(outliers)
    return table.assign(label=label)[~unclear & ~met]


def _read(
    reader: layouts.Reader, batch: pd.DataFrame
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
    return batch, photos, layouts.regions(batch)


def auroc(own: Floats, strange: Floats) -> float:
    """The probability that an own photo has a higher score than a stranger, 0 to 1.

    The area under the receiver operating characteristic, as Mann and Whitney's U (1947).
    """
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(own, strange).statistic / (len(own) * len(strange)))


def rejected_at(accepted: float, own: Floats, strange: Floats) -> float:
    """Share of strangers below the score that this share of own photos reaches.

    One minus the false positive rate at that true positive rate (FPR@99TPR for 0.99).
    """
    return float((strange < coverage_threshold(own, accepted)).mean())
