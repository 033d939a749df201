"""Compare settings on validation photos and write docs/experiments.md.

    make trials                     what trials.yaml lists, some hours on two cores
    make trials ARGS=--table        only the table, from the experiments that exist

Runs the pipeline up to the train stage: nobody looks at a test photo here. As in results.py,
each trial is a DVC experiment, and what exists for the present code and settings is not run again.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks import experiments
from signs.errors import run_stage

TRIALS = Path(__file__).with_suffix(".yaml")
TARGET = Path("docs/experiments.md")
HEADER = """# What was tried

Made by `make trials` from `benchmarks/trials.yaml`; each row is a DVC experiment. Measured on \
validation photos: {base}. Accuracy and log loss (nats, after calibration; at ab167cf before it) \
are those of the deployed epoch, on at most `validation_images` photos; a physical sign that is \
misread costs a dozen of them at once. *Training* is the accuracy on augmented photos of the last \
epoch.

| trial | changes | accuracy | log loss | epoch | training | parameters | minutes | commit |
|---|---|---|---|---|---|---|---|---|
"""


def trials() -> None:
    """Run what is missing, then write the table."""
    only_table = experiments.only_table(__doc__)
    listed: dict[str, Any] = yaml.safe_load(TRIALS.read_text(encoding="utf-8"))
    base = ", ".join(f"`{key}={value}`" for key, value in listed["base"].items())
    rows = {title: experiments.row(title, TARGET) for title in listed["trials"]}
    for title, changes in listed["trials"].items():
        settings = listed["base"] | changes
        found = experiments.find(f"trial {title}", settings, "train", run=not only_table)
        if found:
            rows[title] = _row(title, changes, found)
        text = "\n".join(rows.values())
        TARGET.write_text(f"{HEADER.format(base=base)}{text}\n", encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))


def _row(title: str, changes: dict[str, Any], reference: str) -> str:
    what = ", ".join(f"`{key}={value}`" for key, value in changes.items()) or "–"
    trained = json.loads(experiments.read(reference, "metrics/train/metrics.json"))
    timing = json.loads(experiments.read(reference, "metrics/timing.json"))
    best = trained["best"]
    cells = [
        title,
        what,
        f"**{best['validation_accuracy']:.2%}**",
        f"{best['validation_loss']:.4f}",
        f"{best['epoch']} of {trained['step']}",
        f"{trained['train']['accuracy']:.2%}",
        f"{trained['parameters']:,}",
        f"{timing['minutes']:.1f}",
        experiments.commit(reference),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_stage(trials)
