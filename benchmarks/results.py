"""Run the experiments of results.yaml and write docs/results.md.

    make results                    all of them, some hours on two cores
    make results ARGS=--table       only the page, from the experiments and rows that exist

Each run is a DVC experiment of its own (`dvc exp show -A` lists them). One that exists for the
present code and settings is not run again, so an interrupted `make results` goes on where it was.
A row whose experiments are not all in this clone stays as results.csv has it. The page says which
rows are of earlier code.
"""

import json
from typing import Any

import pandas as pd

from benchmarks import runs
from signs.errors import run_stage


def page() -> runs.Page:
    """An experiment for each seed of what results.yaml lists."""
    listed = runs.listed("results")
    experiments = {
        title: {f"{title} {seed}": row["set"] | _seeds(seed) for seed in row["seeds"]}
        for title, row in listed.items()
    }

    def cells(title: str, references: list[str]) -> dict[str, str]:
        return _cells(pd.DataFrame([_read(each, listed[title]) for each in references]))

    return runs.Page("results", "evaluate", experiments, cells, {})


def _seeds(seed: int) -> dict[str, int]:
    """Seed 1 holds out the first fold, as params.yaml does, seed 2 the second, and so on."""
    fold = {"preprocess.split.fold": seed - 1} if seed > 1 else {}
    return {**fold, "train.seed": seed}


def _read(reference: str, experiment: dict[str, Any]) -> dict[str, Any]:
    """The metrics of one run; what does not apply to it is left out."""

    def load(path: str) -> Any:
        return json.loads(runs.read(reference, f"metrics/{path}"))

    part = experiment.get("part", "test")
    metrics = dict(load("evaluate/details.json")[part])
    metrics["parameters"] = load("train/metrics.json")["parameters"]
    metrics["commit"] = runs.commit(reference)
    if part == "test":
        metrics["duplicates"] = load("preprocess/audit.json")["leaks"]["test_percent"]
    timing = load("timing.json")
    metrics["processor"] = timing["processor"]
    if experiment.get("comparable_time", True):
        metrics |= timing
    return metrics


def _cells(found: pd.DataFrame) -> dict[str, str]:
    """The row of some runs, which are the rows here; "–" for what not all of them measured."""

    def mean(key: str, scale: float = 100, digits: int = 2) -> str:
        if key not in found or found[key].isna().any():
            return "–"
        return f"{scale * found[key].mean():.{digits}f}"

    def spread(key: str, scale: float = 100, digits: int = 2) -> str:
        text = mean(key, scale, digits)
        if text == "–" or len(found) == 1:
            return text
        return f"{text} ± {scale * found[key].std():.{digits}f}"

    def median(key: str, digits: int) -> str:
        return f"{found[key].median():.{digits}f}" if key in found else "–"

    def distinct(key: str) -> str:
        return ", ".join(sorted(found[key].unique()))

    return {
        "test photos": mean("images", 1, 0),
        "exact duplicates": mean("duplicates", 1, 1),
        "accuracy": spread("accuracy"),
        "balanced": spread("balanced_accuracy"),
        "macro-F1": spread("macro_f1"),
        "top-3": spread("top3_accuracy"),
        "ECE": spread("ece", 1, 4),
        "corrupted": spread("corrupted_accuracy"),
        "OOD rejected": spread("ood_rejection_at_99"),
        "OOD AUROC": spread("ood_auroc", 1, 4),
        "seeds": str(len(found)),
        "parameters": f"{found['parameters'][0]:,}",
        "minutes": median("minutes", 1),
        "images/s": median("images_per_second", 0),
        "commit": distinct("commit"),
        "processor": distinct("processor"),
    }


if __name__ == "__main__":
    run_stage(lambda: page().make(str(__doc__)))
