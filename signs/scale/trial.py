"""One trial of a sweep: one training with its own settings, kept as a DVC experiment.

A trial runs in its own clone of the repository. So trials that run at the same time share no lock,
no params.yaml and no output folder, and a trial that was killed continues from its last epoch as
long as its clone is there. The pipeline runs up to the train stage: no trial sees a test photo.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd
import psutil
from dvc.utils.serialize import modify_yaml

from signs import commands, params, paths
from signs.inference.classifier import MODEL

# Results in git of the classifier that HEAD has. They must not pass for the trial's results.
RESULTS_OF_HEAD = (
    paths.TRAIN_METRICS,
    paths.TIMING,
    paths.EVALUATE_METRICS,
    paths.PICTURES,
    paths.MODEL_CARD,
)
# The metrics that a sweep may optimize, and the files with their value after each epoch.
CURVES = {
    "validation_loss": paths.TRAIN_METRICS / "plots/metrics/validation/loss.tsv",
    "validation_accuracy": paths.TRAIN_METRICS / "plots/metrics/validation/accuracy.tsv",
}
THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
READY = Path(".git/prepared")  # exists in a clone that `prepare` has completed
POLL = 0.5  # seconds


@dataclass(frozen=True)
class Trial:
    """What a trial trains.

    Attributes:
        name: of its experiment; an older experiment of this name is replaced.
        source: folder or address of the git repository that receives the experiment.
        commit: of the code that all trials share.
        settings: dotted keys of params.yaml and their values.
        metric: the key of CURVES that the sweep optimizes.
        cores: how many cores it may use.
    """

    name: str
    source: str
    commit: str
    settings: dict[str, Any]
    metric: str
    cores: int


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        state: "fail" means that the pipeline failed; its log says why.
        reference: git reference of the experiment; "" if the trial failed.
        metrics: epochs, best_epoch, and validation_loss (nats) and validation_accuracy (0 to 1)
            of the best epoch; also minutes of training and megabytes of the model if the trial
            is complete.
    """

    state: Literal["complete", "pruned", "fail"]
    reference: str
    metrics: dict[str, float]


def prepare(trial: Trial, folder: Path, cache: Path, pull: bool = False) -> None:
    """Make the clone in which a trial runs; a clone that is complete stays as it is.

    Args:
        trial: the trial.
        folder: where the clone goes.
        cache: DVC's cache, which all clones on a machine share.
        pull: get what the cache lacks from the DVC remote, because the source is on another
            machine.

    Raises:
        UserError: git or DVC failed.
    """
    if (folder / READY).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    commands.git("clone", "--quiet", trial.source, str(folder))
    # DVC finds no experiments of a detached HEAD.
    commands.git("checkout", "--quiet", "-B", "trial", trial.commit, at=folder)
    config = f"[cache]\n    dir = {cache}\n    type = reflink,hardlink,copy\n"
    (folder / ".dvc/config.local").write_text(config, encoding="utf-8")
    if pull:
        commands.dvc("pull", "--quiet", "--force", "--run-cache", "--allow-missing", at=folder)
    else:
        # DVC fails if any data set is missing, even one that no stage needs.
        commands.dvc("checkout", "--quiet", "--force", at=folder, check=False)
    set_params(folder, trial.settings)
    photos = paths.DATA / params.read(folder / paths.PARAMS)["dataset"]
    if not pull and not (folder / photos).exists():  # a data set that DVC does not track
        (folder / paths.DATA).mkdir(exist_ok=True)
        (folder / photos).symlink_to(Path(trial.source) / photos)
    for path in RESULTS_OF_HEAD:
        result = folder / path
        shutil.rmtree(result) if result.is_dir() else result.unlink(missing_ok=True)
    (folder / READY).touch()


def set_params(folder: Path, settings: Mapping[str, Any]) -> None:
    """Change values in the params.yaml of a repository; its comments stay."""
    with modify_yaml(folder / paths.PARAMS) as content:
        params.assign(content, settings)


def run(trial: Trial, folder: Path, prune: Callable[[list[float]], bool], log: IO[bytes]) -> Result:
    """Train in a prepared clone; the source gets an experiment with params, metrics and curves.

    Args:
        trial: the trial.
        folder: the clone that `prepare` made.
        prune: is called about twice a second with the metric of all epochs so far. True ends the
            training. An exception ends it, too, and is raised again.
        log: receives the output of the pipeline.

    Raises:
        UserError: git or DVC failed.
    """
    end_orphans(folder)
    status, pruned = _train(trial, folder, prune, log)
    if status and not pruned:
        return Result("fail", "", {})
    # DVC would record a stage that did not run with the values of dvc.lock, so name those that ran.
    stage = "preprocess" if status else "train"
    save = ("exp", "save", "--quiet", "--force", "--name", trial.name, stage)
    commands.dvc(*save, at=folder, environment=site_cache(folder))
    pattern = f"refs/exps/*/*/{trial.name}"
    reference = commands.git("for-each-ref", "--format=%(refname)", pattern, at=folder)
    commands.git("push", "--quiet", "--force", "origin", f"{reference}:{reference}", at=folder)
    state: Literal["pruned", "complete"] = "pruned" if status else "complete"
    return Result(state, reference, _metrics(folder, complete=not status))


def _train(
    trial: Trial, folder: Path, prune: Callable[[list[float]], bool], log: IO[bytes]
) -> tuple[int, bool]:
    """Run the pipeline; its exit status (negative if killed), and whether it was pruned."""
    # Stages call `python`: it must be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    threads = dict.fromkeys(THREADS, str(trial.cores))
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train"],
        cwd=folder,
        env=os.environ | {"PATH": path} | site_cache(folder) | threads,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    pruned = False
    try:
        while process.poll() is None and not pruned:
            time.sleep(POLL)
            pruned = prune(_curve(folder, trial.metric))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    # The last epoch may have ended after the last poll.
    prune(_curve(folder, trial.metric))
    return process.returncode, pruned


def end_orphans(folder: Path) -> None:
    """Kill the processes that still run in a clone whose sweep was killed."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder.resolve():
                process.kill()
                process.wait()
        except psutil.Error:
            continue


def site_cache(folder: Path) -> dict[str, str]:
    """Let DVC keep its hashes of files in the clone, so that they are removed with it."""
    return {"DVC_SITE_CACHE_DIR": str(folder.resolve() / ".dvc/tmp/site")}


def _curve(folder: Path, metric: str) -> list[float]:
    """The metric after each epoch, without a last line that is still being written."""
    try:
        lines = (folder / CURVES[metric]).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [float(line.split("\t")[-1]) for line in lines[1:] if line.endswith("\n")]


def _metrics(folder: Path, complete: bool) -> dict[str, float]:
    curves = {metric: _curve(folder, metric) for metric in CURVES}
    losses = curves["validation_loss"]
    best = losses.index(min(losses))
    metrics = {metric: curve[best] for metric, curve in curves.items()}
    metrics |= {"epochs": len(losses), "best_epoch": best + 1}
    if complete:
        metrics["minutes"] = float(pd.read_json(folder / paths.TIMING, typ="series")["minutes"])
        metrics["megabytes"] = (folder / paths.CLASSIFIER / MODEL).stat().st_size / 1e6
    return metrics
