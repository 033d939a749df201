"""An external test set: another data set, of the same classes and of others.

Photos of classes that have the name of one of the network's measure cross-dataset accuracy. The
other photos are out of distribution (OOD): their classes have none of the names that the network
has met, as its classes or as auxiliary outliers in training. Capitals in names do not matter.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from signs.data import layouts
from signs.errors import UserError
from signs.evaluation import metrics, ood
from signs.inference.classifier import Classifier, Logits, Metadata
from signs.inference.tables import Model, predict_table, predictions_of
from signs.params import Evaluate

OOD = -1
COLUMNS = ["prediction", "confidence", "energy", "accepted"]


@dataclass(frozen=True)
class Result:
    """What a classifier predicts for the external test set."""

    part: str  # which photos of the set were used, as `predict` names them
    metrics: dict[str, float]  # of the photos of known classes; empty if there are none
    ood_metrics: dict[str, float]  # of the OOD photos; empty if there are none
    ood_predictions: pd.DataFrame  # one row an OOD photo: file, name and `COLUMNS`


def measure(model: Classifier, test_logits: Logits, settings: Evaluate) -> Result:
    """Cross-dataset accuracy and OOD rejection, compared with known photos' logits (N, classes)."""
    rows, logits, part = predict(model, settings)
    outside = (rows["label"] == OOD).to_numpy()
    known, unknown = logits[~outside], logits[outside]
    predictions = predictions_of(model, unknown)[COLUMNS]
    predictions = rows.loc[outside, ["file", "name"]].reset_index(drop=True).join(predictions)
    known_metrics = metrics.with_coverage(rows[~outside], known, model) if len(known) else {}
    ood_metrics = ood.summarize(test_logits, unknown, predictions) if len(unknown) else {}
    return Result(part, known_metrics, ood_metrics, predictions)


def predict(model: Model, settings: Evaluate) -> tuple[pd.DataFrame, Logits, str]:
    """What a classifier or an ensemble predicts for the photos that `choose` gives.

    Returns:
        One row a photo: file, group (its track), name (of what it shows), label (of the
        network's class, or `OOD`); its logits, float32 (N, classes); and which part of
        the set was used: "all photos", "test photos", "odd tracks" or "even tracks".
    """
    folder, table, part = choose(settings, model.metadata)
    rows, logits = predict_table(model, folder, table, settings.batch_size)
    return rows[["file", "group", "name", "label"]].reset_index(drop=True), logits, part


def choose(settings: Evaluate, metadata: Metadata) -> tuple[Path, pd.DataFrame, str]:
    """Folder, photos and used part of the external test set, for a network with this metadata.

    If the set has test photos of its own, only those are used, whatever `external_tracks` says.
    Known and OOD photos are chosen at random, as many of each class as far as there are enough.

    Raises:
        UserError: the set has no such tracks, numbers for names, or no photo that can be read,
            or all its classes were auxiliary outliers.
    """
    name, count = settings.external_set, settings.external_photos
    dataset = layouts.read(name)
    table = dataset.table.rename(columns={"track": "group"})
    tested = table["fixed_split"] == "test"
    if tested.any():
        table, part = table[tested], "test photos"
    elif settings.external_tracks == "all":
        part = "all photos"
    else:
        table, part = _half(table, settings), f"{settings.external_tracks} tracks"
    table = table.assign(name=table["class_id"].map(dataset.names))
    table = with_labels(table, metadata, name).sample(frac=1, random_state=0)
    # One of each class, then a second of each: a small number still shows all classes.
    table = table.iloc[np.argsort(table.groupby("class_id").cumcount(), kind="stable")]
    table = table.groupby(table["label"] == OOD).head(count)
    if not len(table):
        raise UserError(
            f"evaluate.external_set: all classes of {name!r} were auxiliary outliers in training, "
            "so nothing can be evaluated with them."
        )
    return dataset.folder, table, part


def _half(table: pd.DataFrame, settings: Evaluate) -> pd.DataFrame:
    """The rows of odd or of even tracks."""
    numbers = table["group"].str.extract(r"(\d+)$", flags=re.ASCII)[0]
    half = table[pd.to_numeric(numbers) % 2 == (settings.external_tracks == "odd")]
    if numbers.isna().any() or not len(half):
        raise UserError(
            f"evaluate.external_tracks is {settings.external_tracks}, but "
            f"{settings.external_set!r} has no such numbered tracks; set it to all."
        )
    return half


def with_labels(table: pd.DataFrame, metadata: Metadata, name: str) -> pd.DataFrame:
    """The rows of the network's classes and of OOD classes, by `name`, with the column `label`."""
    names = table["name"].str.casefold()
    known = pd.Series(metadata.names).str.casefold()
    label = names.map(dict(zip(known, known.index, strict=True))).fillna(OOD).astype(int)
    if names[label != OOD].str.isdecimal().any():
        raise UserError(
            f"evaluate.external_set: classes of {name!r} and of the network have numbers as "
            "names, which do not tell what they show. Put a labels.csv into both sets."
        )
    # Nobody can tell which of two classes of the same name is meant.
    unclear = names.isin(known[known.duplicated()])
    outliers = {outlier.casefold() for outlier in metadata.provenance["auxiliary_outliers"]}
    return table.assign(label=label)[~unclear & ~((label == OOD) & names.isin(outliers))]
