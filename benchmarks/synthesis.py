"""Compare settings of the renderer on real photos and write docs/synthesis.md.

    make synthesis                  what synthesis.yaml lists, some hours on two cores
    make synthesis ARGS=--table     only the page, from the experiments and rows that exist

As in results.py, each row is a DVC experiment, and one that exists for the present code and
settings is not run again.
"""

import json

from benchmarks import runs
from signs.errors import run_stage


def page() -> runs.Page:
    """One experiment for each variant that synthesis.yaml lists."""
    return runs.variants("synthesis", "evaluate", _metrics)


def _metrics(reference: str) -> dict[str, str]:
    read = json.loads(runs.read(reference, "metrics/evaluate/details.json"))["external"]
    timing = json.loads(runs.read(reference, "metrics/timing.json"))
    return {
        "accuracy": f"{read['accuracy']:.2%}",
        "balanced": f"{read['balanced_accuracy']:.2%}",
        "log loss": f"{read['log_loss']:.4f}",
        "commit": runs.commit(reference),
        "processor": timing["processor"],
    }


if __name__ == "__main__":
    run_stage(lambda: page().make(str(__doc__)))
