"""Compare settings on validation photos and write docs/ablation.md.

    make ablation                   what ablation.yaml lists, some hours on two cores
    make ablation ARGS=--table      only the page, from the experiments and rows that exist

Runs the pipeline up to the train stage, so no test photo is looked at. As in results.py, each row
is a DVC experiment, and one that exists for the present code and settings is not run again.
"""

import json

from benchmarks import exports, runs
from signs import params
from signs.data import arrays, splits
from signs.errors import run_stage
from signs.evaluation import robustness
from signs.inference.classifier import Classifier
from signs.paths import CLASSIFIER, DATA, PREPARED


def page() -> runs.Page:
    """One experiment for each variant that ablation.yaml lists."""
    return runs.variants("ablation", "train", _metrics)


def _metrics(reference: str) -> dict[str, str]:
    trained = json.loads(runs.read(reference, "metrics/train/metrics.json"))
    timing = json.loads(runs.read(reference, "metrics/timing.json"))
    return {
        "accuracy": f"{trained['validation']['accuracy']:.2%}",
        "log loss": f"{trained['validation']['loss']:.4f}",
        "corrupted": f"{_corrupted_accuracy(reference):.2%}",
        "epoch": f"{trained['step']} of {trained['step']}",  # rows of earlier code: the best one
        "training": f"{trained['train']['accuracy']:.2%}",
        "parameters": f"{trained['parameters']:,}",
        "minutes": f"{timing['minutes']:.1f}",
        "commit": runs.commit(reference),
        "processor": timing["processor"],
    }


def _corrupted_accuracy(reference: str) -> float:
    """Of a classifier on as many validation photos as evaluation takes of the test's."""
    with exports.fetched(reference) as folder:
        data = arrays.load(folder / PREPARED)
        photos = data.samples.iloc[data.rows(splits.VALIDATION)]
        count = params.load().evaluate.corruption_photos
        model = Classifier(folder / CLASSIFIER)
        table, _ = robustness.measure(model, DATA / data.dataset, photos, count)
    return float(table["accuracy"].mean())


if __name__ == "__main__":
    run_stage(lambda: page().make(str(__doc__)))
