"""One trial of a sweep: a training with settings of its own, kept as a DVC experiment.

It runs in a clone of its own. So trials side by side share no lock, no params.yaml and no
output folder, and one that was killed goes on from its last epoch where its clone still stands.
The pipeline runs to the train stage: no trial looks at a test photo.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd
import psutil
from dvc.utils.serialize import modify_yaml

from signs import params
from signs.errors import UserError
from signs.inference.classifier import FOLDER, MODEL

METRICS, TIMING = Path("metrics/train"), Path("metrics/timing.json")
# In git, but results of the classifier that HEAD has, not of the trial's.
OTHERS = (METRICS, TIMING, Path("metrics/evaluate"), Path("docs/model_card.md"))
# What a sweep may look at: of the deployed epoch, which is the one with the least loss.
CURVES = {
    "validation_loss": METRICS / "plots/metrics/validation/loss.tsv",
    "validation_accuracy": METRICS / "plots/metrics/validation/accuracy.tsv",
}
THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
PREPARED = Path(".git/prepared")
POLL = 0.5  # seconds


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        state: "fail": the pipeline said why in the log.
        reference: git reference of the experiment; "" if it failed.
        measures: epochs, best_epoch, validation_loss (nats) and validation_accuracy (0 to 1) of
            that epoch; if it is complete also minutes of training and megabytes of the model.
    """

    state: Literal["complete", "pruned", "fail"]
    reference: str
    measures: dict[str, float]


def prepare(
    folder: Path,
    source: str,
    commit: str,
    settings: dict[str, Any],
    cache: Path,
    pull: bool = False,
) -> None:
    """Make the clone in which a trial runs, or leave the one that is there.

    Args:
        folder: where.
        source: folder or address of the git repository; gets the experiment in the end.
        commit: of the code that all trials share.
        settings: dotted keys of params.yaml and their values.
        cache: DVC's cache, which all clones on a machine share.
        pull: fetch from the DVC remote what the cache lacks, as the source is on another machine.

    Raises:
        UserError: git or DVC failed.
    """
    if (folder / PREPARED).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    call("git", "clone", "--quiet", source, str(folder))
    # DVC finds no experiments of a detached HEAD.
    call("git", "checkout", "--quiet", "-B", "trial", commit, at=folder)
    config = f"[cache]\n    dir = {cache}\n    type = reflink,hardlink,copy\n"
    (folder / ".dvc/config.local").write_text(config, encoding="utf-8")
    if pull:
        missing = ("--run-cache", "--allow-missing")
        call("dvc", "pull", "--quiet", "--force", *missing, at=folder)
    else:
        # Fails if a photo set is not there, be it one that no stage needs.
        call("dvc", "checkout", "--quiet", "--force", at=folder, check=False)
    set_params(folder, settings)
    photos = folder / "data" / params.read(folder / params.PARAMS_FILE)["dataset"]
    if not pull and not photos.exists():  # one's own, which DVC does not know
        photos.parent.mkdir(exist_ok=True)
        photos.symlink_to(Path(source) / "data" / photos.name)
    for path in OTHERS:
        found = folder / path
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    (folder / PREPARED).touch()


def set_params(folder: Path, settings: dict[str, Any]) -> None:
    """Change values in a clone's params.yaml; comments stay."""
    with modify_yaml(folder / params.PARAMS_FILE) as content:
        for key, value in settings.items():
            *blocks, last = key.split(".")
            block = content
            for name in blocks:
                block = block[name]
            block[last] = value


def run(
    folder: Path,
    name: str,
    metric: str,
    prune: Callable[[list[float]], bool],
    log: IO[bytes],
    threads: int,
) -> Result:
    """Train in a prepared clone; give its source an experiment with params, metrics and curves.

    Args:
        folder: as `prepare` made it.
        name: of the experiment; one of the same name is replaced.
        metric: key of CURVES.
        prune: gets the metric of all epochs so far, some times a second; True ends the training.
            An exception ends it, too, and comes out here.
        log: what the pipeline says.
        threads: of each library that has a number of them.

    Raises:
        UserError: git or DVC failed.
    """
    end_orphans(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train"],
        cwd=folder,
        env=_environment(folder) | dict.fromkeys(THREADS, str(threads)),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    pruned = False
    try:
        while process.poll() is None and not pruned:
            time.sleep(POLL)
            pruned = prune(_curve(folder, metric))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    # An epoch may have come with the end.
    prune(_curve(folder, metric))
    if process.returncode and not pruned:
        return Result("fail", "", {})
    # A stage that DVC is not told to save keeps what dvc.lock says of it: not run so.
    stage = "preprocess" if process.returncode else "train"
    call("dvc", "exp", "save", "--quiet", "--force", "--name", name, stage, at=folder)
    pattern = f"refs/exps/*/*/{name}"
    reference = call("git", "for-each-ref", "--format=%(refname)", pattern, at=folder).strip()
    call("git", "push", "--quiet", "--force", "origin", f"{reference}:{reference}", at=folder)
    measures = _measures(folder, complete=not process.returncode)
    return Result("pruned" if process.returncode else "complete", reference, measures)


def end_orphans(folder: Path) -> None:
    """End what still runs in a clone whose sweep was killed."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder.resolve():
                process.kill()
                process.wait()
        except psutil.Error:
            continue


def call(*command: str, at: Path = Path(), check: bool = True) -> str:
    """What git or DVC says.

    Raises:
        UserError: it failed.
    """
    if command[0] == "dvc":
        command = (sys.executable, "-m", *command)
    done = subprocess.run(
        command, cwd=at, env=_environment(at), capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise UserError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _environment(folder: Path) -> dict[str, str]:
    found = dict(os.environ)
    # Stages call `python`.
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
    if (folder / PREPARED).exists():
        # So that it goes with the clone; hashes of known files, else in /var/tmp.
        found["DVC_SITE_CACHE_DIR"] = str(folder.resolve() / ".dvc/tmp/site")
    return found


def _curve(folder: Path, metric: str) -> list[float]:
    """Its value after each epoch; the last line may still be being written."""
    try:
        lines = (folder / CURVES[metric]).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [float(line.split("\t")[-1]) for line in lines[1:] if line.endswith("\n")]


def _measures(folder: Path, complete: bool) -> dict[str, float]:
    curves = {metric: _curve(folder, metric) for metric in CURVES}
    losses = curves["validation_loss"]
    best = losses.index(min(losses))
    found = {metric: curve[best] for metric, curve in curves.items()}
    found |= {"epochs": len(losses), "best_epoch": best + 1}
    if complete:
        found["minutes"] = float(pd.read_json(folder / TIMING, typ="series")["minutes"])
        found["megabytes"] = (folder / FOLDER / MODEL).stat().st_size / 1e6
    return found
