"""Compare scores that tell known signs from out-of-distribution (OOD) photos; write docs/ood.md.

    make ood                 trains what is missing of the two experiments, some minutes
    make ood ARGS=--table    only the page, from the rows that exist

The experiments are two of ablation.yaml: with and without outlier exposure. Known photos are their
validation photos, so no test photo is looked at.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import ablation, exports, runs
from signs import machine, params, paths
from signs.data import arrays, images, layouts, splits
from signs.errors import run_stage
from signs.evaluation import external, ood
from signs.inference.classifier import Classifier, Inputs, energy_scores, probabilities
from signs.training.loop import predict

TRAININGS = {"with exposure": "recipe of params.yaml", "without": "no auxiliary outliers"}
SETS = {"synthetic signs": "ood", "photos of `signs`": "signs"}
NEIGHBOUR = 50  # the one whose distance counts
BANK = 10_000  # training photos whose features are neighbours
SCORES = "maximum probability", "maximum logit", "energy", "50th neighbour", "ViM"
LOST = 0.01  # share of the variance of the features that ViM's principal subspace leaves out

Array = npt.NDArray[np.floating]


class Seen(NamedTuple):
    """What a network makes of photos: features (N, F) and logits (N, classes)."""

    features: Array
    logits: Array


@cache
def _table(reference: str) -> pd.DataFrame:
    """One row for each score and OOD set: AUROC, FPR95 and share rejected at 99 % accepted."""
    with exports.fetched(reference) as folder:
        data, model = arrays.load(folder / paths.PREPARED), Classifier(folder / paths.CLASSIFIER)
        network = keras.models.load_model(folder / paths.KERAS_MODEL)
        both = _with_features(network)
        known = _see(both, data.images[data.rows(splits.VALIDATION)])
        score_of = _scores(_see(both, data.images[data.some_rows(splits.TRAIN, BANK)]))
    rows = {}
    for title, name in SETS.items():
        unknown = _see(both, _unknown(model, name))
        for score, of in score_of.items():
            inside, outside = of(known), of(unknown)
            rows[score, title] = {
                "AUROC": ood.auroc(inside, outside),
                "FPR95": 1 - ood.rejected_at(0.95, inside, outside),
                "rejected": ood.rejected_at(0.99, inside, outside),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def _with_features(network: keras.Model) -> keras.Model:
    """The network, but with features (N, F) and logits (N, classes) as one output."""
    last = network.get_layer("logits")
    both = keras.layers.Concatenate()([last.input, last.output])
    return keras.Model(network.input, both)


def _see(network: keras.Model, prepared: Inputs) -> Seen:
    result = predict(network, prepared)
    features = network.get_layer("logits").input.shape[1]
    return Seen(result[:, :features], result[:, features:])


def _unknown(model: Classifier, name: str) -> Inputs:
    """Prepared OOD photos of a data set, as the evaluate stage chooses them."""
    settings = params.load().evaluate.model_copy(update={"external_set": name})
    folder, table, _ = external.choose(settings, model.metadata)
    table, reader = table[table["label"] == external.OOD], layouts.Reader(folder)
    photos = [images.decode(reader.read(file)) for file in table["file"]]
    return model.prepare(photos, layouts.regions(table))


def _scores(train: Seen) -> dict[str, Callable[[Seen], Array]]:
    """Scores, higher for known signs, fitted on training photos.

    Maximum probability and maximum logit: D. Hendrycks et al. (ICLR 2017, ICML 2022); energy:
    W. Liu et al. (NeurIPS 2020); distance to the 50th neighbour: Y. Sun et al. (ICML 2022); ViM:
    H. Wang et al. (CVPR 2022), with the mean of the features as origin.
    """
    bank, origin = _unit(train.features), train.features.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(train.features.T))  # ascending
    null = axes[:, np.cumsum(variances) < LOST * variances.sum()]

    def residual(seen: Seen) -> Array:
        return np.asarray(np.linalg.norm((seen.features - origin) @ null, axis=1))

    def neighbour(seen: Seen) -> Array:
        """Cosine of the angle to the 50th neighbour; it falls as the distance grows."""
        parts = np.array_split(_unit(seen.features), len(seen.features) // 500 + 1)
        near = [np.partition(part @ bank.T, -NEIGHBOUR)[:, -NEIGHBOUR] for part in parts]
        return np.concatenate(near)

    scale = train.logits.max(axis=1).mean() / residual(train).mean()
    found: list[Callable[[Seen], Array]] = [
        lambda seen: probabilities(seen.logits).max(axis=1),
        lambda seen: seen.logits.max(axis=1),
        lambda seen: energy_scores(seen.logits),
        neighbour,
        lambda seen: energy_scores(seen.logits) - scale * residual(seen),
    ]
    return dict(zip(SCORES, found, strict=True))


def _unit(features: Array) -> Array:
    lengths: Array = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-9)


def page() -> runs.Page:
    """A row for each score and training."""
    trained = ablation.page().experiments
    chosen = {
        f"{score}, {training}": trained[title]
        for score in SCORES
        for training, title in TRAININGS.items()
    }

    def cells(title: str, references: list[str]) -> dict[str, str]:
        table = _table(references[0]).loc[title.rpartition(", ")[0]]
        return {
            **{
                f"{column}, {name}": f"{value:.4f}" if column == "AUROC" else f"{value:.1%}"
                for name, row in table.iterrows()
                for column, value in row.items()
            },
            "commit": runs.commit(references[0]),
            "processor": machine.processor(),
        }

    return runs.Page("ood", "train", chosen, cells, {})


if __name__ == "__main__":
    run_stage(lambda: page().make(str(__doc__)))
