"""Compare settings on validation photos and write docs/ablation.md.

    make ablation                   what ablation.yaml lists, some hours on two cores
    make ablation ARGS=--table      only the table, from the experiments that exist

Runs the pipeline up to the train stage, so no test photo is looked at. As in results.py, each row
is a DVC experiment, and one that exists for the present code and settings is not run again.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks import runs
from signs.errors import run_stage
from signs.files import write_text

LISTED = Path(__file__).with_suffix(".yaml")
PAGE = Path(__file__).with_suffix(".md")
TARGET = Path("docs/ablation.md")


def ablation() -> None:
    """Run what is missing, then write the table."""
    only_table = runs.only_table(__doc__)
    listed: dict[str, Any] = yaml.safe_load(LISTED.read_text(encoding="utf-8"))
    base = ", ".join(f"`{key}={value}`" for key, value in listed["base"].items())
    rows = {title: runs.row(title, TARGET) for title in listed["variants"]}
    for title, changes in listed["variants"].items():
        settings = listed["base"] | changes
        found = runs.find(f"ablation {title}", settings, "train", run=not only_table)
        if found:
            rows[title] = _row(title, changes, found)
        page = PAGE.read_text(encoding="utf-8")
        write_text(TARGET, page.format(base=base, rows="\n".join(rows.values())))
    print(TARGET.read_text(encoding="utf-8"))


def _row(title: str, changes: dict[str, Any], reference: str) -> str:
    trained = json.loads(runs.read(reference, "metrics/train/metrics.json"))
    timing = json.loads(runs.read(reference, "metrics/timing.json"))
    best = trained["best"]
    cells = [
        title,
        ", ".join(f"`{key}={value}`" for key, value in changes.items()) or "–",
        f"**{best['validation_accuracy']:.2%}**",
        f"{best['validation_loss']:.4f}",
        f"{best['epoch']} of {trained['step']}",
        f"{trained['train']['accuracy']:.2%}",
        f"{trained['parameters']:,}",
        f"{timing['minutes']:.1f}",
        runs.commit(reference),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_stage(ablation)
