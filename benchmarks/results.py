"""Run the experiments of results.yaml and write docs/results.md.

    make results                    all of them, some hours on two cores
    make results ARGS=--table       only the table, from the experiments that exist

Each run is a DVC experiment of its own (`dvc exp show -A` lists them). One that exists for the
present code and settings is not run again, so an interrupted `make results` goes on where it was.
The table has the experiment of the present code, else the newest, and says what commit it ran at;
a row whose experiments are not all in this clone stays as it is.
"""

import json
import os
import platform
import statistics
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from benchmarks import experiments
from signs import machine
from signs.errors import run_stage
from signs.parallel import cores

EXPERIMENTS = Path(__file__).with_suffix(".yaml")
TARGET = Path("docs/results.md")
PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow_cpu")
HEADER = """# Results on real photos

Made by `make results` from `benchmarks/results.yaml`; each row's experiments are kept as DVC
experiments. Accuracies are of the test photos, in percent, as mean ± standard deviation over
the seeds; a seed determines which fold is held out, and the training. *Twins* is the share of
test photos with a pixel-identical twin in training. *Corrupted* is the accuracy on 200 of them
in 65 bad conditions. *Strangers refused*, measured with compact, is the share of photos of the
other set, of classes whose names this one has not, that are "unknown" if 99 % of the test photos
are not. The row of drawn signs alone has its figures from the photos that it names, which did not
train. *Images/s* is the training's rate, augmentation included, and *minutes* its time with the
validation after each epoch; *commit* is what the experiments ran at, with the settings that
`benchmarks/results.yaml` had there.

| photos, network, split | test photos | twins, % | accuracy | balanced | macro-F1 | top-3 | ECE | \
corrupted | strangers refused | AUROC | seeds | parameters | minutes | images/s | commit |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def results() -> None:
    """Run what is missing, then write the table."""
    only_table = experiments.only_table(__doc__)
    listed: dict[str, Any] = yaml.safe_load(EXPERIMENTS.read_text(encoding="utf-8"))
    rows = {title: experiments.row(title, TARGET) for title in listed}
    for title, experiment in listed.items():
        runs = []
        for seed in experiment["seeds"]:
            settings = {**experiment["set"], **_seeds(seed)}
            found = experiments.find(f"{title} {seed}", settings, "evaluate", run=not only_table)
            runs += [_read(found, experiment.get("measure", "test"))] if found else []
        if len(runs) == len(experiment["seeds"]):
            rows[title] = _row(title, runs)
        TARGET.parent.mkdir(exist_ok=True)
        text = "\n".join(rows.values())
        TARGET.write_text(f"{HEADER}{text}\n{_footer()}", encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))


def _seeds(seed: int) -> dict[str, int]:
    """Seed 1 holds out the first fold, as params.yaml does, seed 2 the second, and so on."""
    fold = {"preprocess.split.fold": seed - 1} if seed > 1 else {}
    return {**fold, "train.seed": seed}


def _read(reference: str, measure: str) -> dict[str, Any]:
    def load(path: str) -> Any:
        return json.loads(experiments.read(reference, f"metrics/{path}"))

    twins = load("preprocess/audit.json")["leaks"]["test_percent"]
    return {
        **load("evaluate/details.json")[measure],
        **load("timing.json"),
        "parameters": load("train/metrics.json")["parameters"],
        "commit": experiments.commit(reference),
        **({"twins": twins} if measure == "test" else {}),
    }


def _row(title: str, runs: list[dict[str, Any]]) -> str:
    def spread(key: str, scale: float = 100, digits: int = 2) -> str:
        if any(key not in run for run in runs):
            return "–"  # not measured yet at that commit
        values = [scale * run[key] for run in runs]
        mean = f"{statistics.mean(values):.{digits}f}"
        return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean

    cells = [
        title,
        spread("images", 1, 0).split(" ")[0],
        spread("twins", 1, 1).split(" ")[0],
        f"**{spread('accuracy')}**",
        spread("balanced_accuracy"),
        spread("macro_f1"),
        spread("top3_accuracy"),
        spread("ece", 1, 4),
        spread("corrupted_accuracy"),
        spread("ood_rejection_at_99"),
        spread("ood_auroc", 1, 4),
        str(len(runs)),
        f"{runs[0]['parameters']:,}",
        f"{statistics.median(run['minutes'] for run in runs):.1f}",
        f"{statistics.median(run['images_per_second'] for run in runs):.0f}",
        ", ".join(sorted({run["commit"] for run in runs})),
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
        f"\nLast written on: {machine.processor()}, {cores()} cores, {memory:.0f} GB of memory, "
        f"no GPU; Python {platform.python_version()}, {packages}.\n"
    )


if __name__ == "__main__":
    run_stage(results)
