"""Seconds that a trial of a sweep takes beside its training: Ray Tune, the clone, DVC.

    make benchmark-sweep                  some minutes on two cores
    make benchmark-sweep ARGS='--rounds 1 --trials 2'

Runs a sweep of one trial and a sweep of several, one after the other, in a clone of HEAD. Their
difference for each trial, less the time of the train stage alone, is the overhead of a trial. What
is left of the sweep of one trial is its start. Figures are medians of the rounds.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import yaml

from signs import params, paths
from signs.commands import dvc, git, run
from signs.errors import run_stage
from signs.machine import processor

SETTINGS = {"train.compact.epochs": 2, "train.compact.steps_per_epoch": 5}
SWEEP = {
    "metric": "validation_loss",
    "sampler": "random",
    "pruner": "none",
    "settings": SETTINGS,
    "space": {"train.seed": {"low": 1, "high": 2**30}},
}


def measure() -> None:
    """Run all rounds and print the medians as JSON."""
    parser = argparse.ArgumentParser(description="The overhead of a trial.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=3)
    arguments = parser.parse_args()
    alone, overheads, starts = [], [], []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            clone = _clone(Path(folder) / "clone")
            training = _train(clone, number)
            one, several = (
                _sweep(clone, name, trials)
                for name, trials in (("one", 1), ("several", 1 + arguments.trials))
            )
        trial = (several - one) / arguments.trials
        alone.append(training)
        overheads.append(trial - training)
        starts.append(one - trial)
    figures = {"training": alone, "overhead": overheads, "start": starts}
    print(json.dumps({key: round(statistics.median(each), 1) for key, each in figures.items()}))
    each = {key: [round(value, 1) for value in sorted(values)] for key, values in figures.items()}
    print(json.dumps({"rounds": each, "processor": processor()}))


def _clone(folder: Path) -> Path:
    git("clone", "--quiet", str(Path.cwd()), str(folder))
    config = f"[cache]\n    dir = {dvc('cache', 'dir').strip()}\n"
    (folder / ".dvc/config.local").write_text(config, encoding="utf-8")
    dvc("checkout", "--quiet", "--force", at=folder, check=False)
    return folder


def _train(clone: Path, number: int) -> float:
    """Seconds of the train stage, without DVC."""
    content = params.read()
    params.assign(content, SETTINGS | {"train.seed": number})
    (clone / paths.PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")
    seconds = _seconds(clone, "stages.train")
    git("restore", ".", at=clone)
    return seconds


def _sweep(clone: Path, name: str, trials: int) -> float:
    """Seconds of a whole sweep, whose trainings are in no cache."""
    seed = time.time_ns() % 2**31
    content = yaml.safe_dump(SWEEP | {"trials": trials, "seed": seed})
    (clone / f"sweeps/{name}.yaml").write_text(content, encoding="utf-8")
    git("add", "sweeps", at=clone)
    git("commit", "--quiet", "--message", f"Describe {name}", at=clone)
    return _seconds(clone, "signs", "sweep", f"sweeps/{name}.yaml")


def _seconds(clone: Path, *command: str) -> float:
    started = time.perf_counter()
    run(sys.executable, "-m", *command, at=clone)
    return time.perf_counter() - started


if __name__ == "__main__":
    run_stage(measure, tidies=False)
