"""Run the experiments of results.yaml and write docs/results.md.

    make results                    all of them, some hours on two cores
    make results ARGS=--table       only the table, from the experiments that exist

Each run is a DVC experiment of its own (`dvc exp show -A` lists them). One that exists for the
present code and settings is not run again, so an interrupted `make results` goes on where it was.
The table has the experiment of the present code, else the newest, and says what commit it ran at.
A row whose experiments are not all in this clone stays as it is.
"""

import json
import os
import platform
import statistics
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from benchmarks import runs
from signs import machine
from signs.errors import run_stage
from signs.files import write_text

LISTED = Path(__file__).with_suffix(".yaml")
PAGE = Path(__file__).with_suffix(".md")
TARGET = Path("docs/results.md")
PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow_cpu")


def results() -> None:
    """Run what is missing, then write the page."""
    only_table = runs.only_table(__doc__)
    listed: dict[str, Any] = yaml.safe_load(LISTED.read_text(encoding="utf-8"))
    rows = {title: runs.row(title, TARGET) for title in listed}
    # Of the machine that made the rows, so it stays if no row is made again.
    footer = TARGET.read_text(encoding="utf-8").splitlines()[-1] if TARGET.exists() else ""
    for title, experiment in listed.items():
        found = []
        for seed in experiment["seeds"]:
            settings = {**experiment["set"], **_seeds(seed)}
            reference = runs.find(f"{title} {seed}", settings, "evaluate", run=not only_table)
            found += [_read(reference, experiment)] if reference else []
        if len(found) == len(experiment["seeds"]):
            rows[title], footer = _row(title, found), _footer()
        page = PAGE.read_text(encoding="utf-8")
        write_text(TARGET, page.format(rows="\n".join(rows.values()), footer=footer))
    print(TARGET.read_text(encoding="utf-8"))


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
    if experiment.get("comparable_time", True):
        metrics |= load("timing.json")
    return metrics


def _row(title: str, found: list[dict[str, Any]]) -> str:
    def over_runs(key: str) -> list[float] | None:
        return [run[key] for run in found] if all(key in run for run in found) else None

    def spread(key: str, scale: float = 100, digits: int = 2) -> str:
        values = over_runs(key)
        if values is None:
            return "–"
        mean = f"{scale * statistics.mean(values):.{digits}f}"
        if len(values) == 1:
            return mean
        return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}"

    def median(key: str, digits: int) -> str:
        values = over_runs(key)
        return "–" if values is None else f"{statistics.median(values):.{digits}f}"

    cells = [
        title,
        spread("images", 1, 0).split(" ")[0],
        spread("duplicates", 1, 1).split(" ")[0],
        f"**{spread('accuracy')}**",
        spread("balanced_accuracy"),
        spread("macro_f1"),
        spread("top3_accuracy"),
        spread("ece", 1, 4),
        spread("corrupted_accuracy"),
        spread("ood_rejection_at_99"),
        spread("ood_auroc", 1, 4),
        str(len(found)),
        f"{found[0]['parameters']:,}",
        median("minutes", 1),
        median("images_per_second", 0),
        ", ".join(sorted({run["commit"] for run in found})),
    ]
    return f"| {' | '.join(cells)} |"


def _footer() -> str:
    packages = ", ".join(
        f"{package.metadata['Name']} {package.version}"
        for package in distributions()
        if package.metadata["Name"] in PACKAGES
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Last row made on: {machine.processor()}, {memory:.0f} GB of memory; "
        f"Python {platform.python_version()}, {packages}."
    )


if __name__ == "__main__":
    run_stage(results)
