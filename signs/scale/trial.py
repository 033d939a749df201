"""One trial of a sweep: a training with its own settings, as Ray Tune runs it on any host.

A trial runs in its own clone of the repository, so trials share no lock, no params.yaml and no
output folder. The pipeline runs up to the train stage: no trial sees a test photo. The state of the
training goes to Tune after each epoch, so a trial goes on from there on any host. What remains of a
trial is a DVC experiment.
"""

import hashlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from dvc.utils.serialize import modify_yaml
from ray import tune

from signs import commands, params, paths
from signs.errors import UserError
from signs.inference.classifier import MODEL, Classifier

# Results in git of the classifier that HEAD has. They must not pass for the trial's results.
RESULTS_OF_HEAD = (
    paths.TRAIN_METRICS,
    paths.TIMING,
    paths.EVALUATE_METRICS,
    paths.PICTURES,
    paths.MODEL_CARD,
)
# Metrics after each epoch, and their files.
CURVES = {
    "validation_loss": paths.TRAIN_METRICS / "plots/metrics/validation/loss.tsv",
    "validation_accuracy": paths.TRAIN_METRICS / "plots/metrics/validation/accuracy.tsv",
}
COSTS = ("minutes", "megabytes", "milliseconds")  # known when the training is complete
THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
READY = Path(".git/prepared")  # exists in a clone that is complete
RESUME = ".resume"  # the train stage's unfinished trainings
STATE = "trial.json"
POLL = 0.5  # seconds
PATIENCE = 180  # seconds in which git, the DVC remote or the storage must be back
TIMED = 200  # predictions
# Ends the pipeline with all its processes when the trial's process is gone, however it ended.
GUARD = """
import os, signal, subprocess, sys, threading
def wait_for_the_end():
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=wait_for_the_end, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
"""
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share.

    Attributes:
        source: folder or address of the git repository that receives the experiments.
        commit: of the code.
        settings: dotted keys of params.yaml and their values.
        searched: dotted keys whose values the trial's configuration has.
        metric: the key of CURVES that the sweep optimizes first.
        folds: how many folds of the data each trial trains on.
        cores: of a trial.
        gpus: of a trial; a part of one if below 1.
        home: folder of the clones.
        cache: DVC's cache on each host.
        remote: trials get the data from the DVC remote, and send what they trained there.
    """

    source: str
    commit: str
    settings: dict[str, Any]
    searched: list[str]
    metric: str
    folds: int
    cores: int
    gpus: float
    home: str
    cache: str
    remote: bool


@dataclass
class Progress:
    """What a trial remembers: metrics of its complete folds, and epochs told of the present one."""

    folds: list[dict[str, float]] = field(default_factory=list)
    epochs: int = 0


def set_params(folder: Path, settings: Mapping[str, Any]) -> None:
    """Change values in the params.yaml of a repository; its comments stay."""
    with modify_yaml(folder / paths.PARAMS) as content:
        params.assign(content, settings)


class Training(tune.Trainable):
    """A trial. Each step is an epoch; one more step ends each fold."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Make the clone; one that is there already stays."""
        assert job
        self._job, self._name = job, config["experiment"]
        settings = job.settings | {key: config[key] for key in job.searched}
        identity = json.dumps([job.source, job.commit, settings, self._name])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        self._folder = Path(job.home).expanduser() / f"{self._name}-{digest}"
        self._environment = {"DVC_SITE_CACHE_DIR": str(self._folder / ".dvc/tmp/site")}
        self._progress, self._pruned = Progress(), False
        self._process: subprocess.Popen[bytes] | None = None
        if not (self._folder / READY).exists():
            patiently(lambda: self._clone(settings))
        self._begin_fold()

    def prune(self) -> None:
        """Let the next step be the last."""
        self._pruned = True

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch, or for the end of the pipeline."""
        if self._pruned:
            return self._finish("pruned")
        self._process = self._process or self._start()
        told = self._progress.epochs
        while (status := self._process.poll()) is None and len(self._curve()) <= told:
            time.sleep(POLL)
        if len(self._curve()) > told:
            self._progress.epochs += 1
            return self._result(_metrics(self._folder, told + 1))
        return self._fail() if status else self._finish("complete")

    def cleanup(self) -> None:
        """End the pipeline, whatever Tune's reason is."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state of the training, which goes on meanwhile."""
        target = Path(checkpoint_dir)
        (target / STATE).write_text(json.dumps(vars(self._progress)), encoding="utf-8")
        for _ in range(10):
            shutil.rmtree(target / RESUME, ignore_errors=True)
            if not (self._folder / RESUME).exists():
                return
            try:
                unfinished = shutil.ignore_patterns("unfinished")
                shutil.copytree(self._folder / RESUME, target / RESUME, ignore=unfinished)
                return
            except (FileNotFoundError, shutil.Error):  # the next epoch has replaced it
                continue

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from such a state."""
        source = Path(checkpoint_dir)
        self._progress = Progress(**json.loads((source / STATE).read_text(encoding="utf-8")))
        self._begin_fold()
        if (source / RESUME).exists():
            shutil.copytree(source / RESUME, self._folder / RESUME, dirs_exist_ok=True)

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Save as Tune does, but wait for a storage that does not answer."""
        return patiently(lambda: super(Training, self).save(checkpoint_dir))

    def restore(self, checkpoint_path: Any) -> None:
        """Restore as Tune does, but wait for a storage that does not answer."""
        patiently(lambda: super(Training, self).restore(checkpoint_path))

    def _clone(self, settings: Mapping[str, Any]) -> None:
        job, folder = self._job, self._folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        commands.git("clone", "--quiet", job.source, str(folder))
        # DVC finds no experiments of a detached HEAD.
        commands.git("checkout", "--quiet", "-B", "trial", job.commit, at=folder)
        cache = Path(job.cache).expanduser()
        config = f"[cache]\n    dir = {cache}\n    type = reflink,hardlink,copy\n"
        (folder / ".dvc/config.local").write_text(config, encoding="utf-8")
        if job.remote:
            self._dvc("pull", "--quiet", "--force", "--run-cache", "--allow-missing")
        else:
            # DVC fails if any data set is missing, even one that no stage needs.
            self._dvc("checkout", "--quiet", "--force", check=False)
        set_params(folder, settings)
        photos = paths.DATA / params.read(folder / paths.PARAMS)["dataset"]
        if not job.remote and not (folder / photos).exists():  # one that DVC does not track
            (folder / paths.DATA).mkdir(exist_ok=True)
            (folder / photos).symlink_to(Path(job.source) / photos)
        (folder / READY).touch()

    def _dvc(self, *arguments: str, check: bool = True) -> None:
        commands.dvc(*arguments, at=self._folder, environment=self._environment, check=check)

    def _begin_fold(self) -> None:
        if self._job.folds > 1:
            set_params(self._folder, {"preprocess.split.fold": len(self._progress.folds)})
        for path in RESULTS_OF_HEAD:
            result = self._folder / path
            shutil.rmtree(result) if result.is_dir() else result.unlink(missing_ok=True)

    def _start(self) -> "subprocess.Popen[bytes]":
        # Stages call `python`: it must be this one.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path} | self._environment
        environment |= dict.fromkeys(THREADS, str(self._job.cores))
        if 0 < self._job.gpus < 1:  # otherwise TensorFlow takes all of the GPU's memory
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        command = [sys.executable, "-c", GUARD, sys.executable, "-m", "dvc", "repro", "train"]
        # A trial that moved has a log for each time.
        self._log = Path(self.logdir) / f"{int(time.time())}.log"
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _curve(self) -> list[float]:
        return _curve(self._folder, self._job.metric)

    def _finish(self, state: str) -> dict[str, Any]:
        """Keep the experiment; the trial is done unless there is another fold."""
        self.cleanup()
        self._process = None
        fold, folds = len(self._progress.folds), self._job.folds
        name = self._name if folds == 1 else f"{self._name}-fold{fold}"
        # DVC would record a stage that did not run as dvc.lock has it, so name those that ran.
        complete = state == "complete"
        stage = "train" if complete else "preprocess"
        self._dvc("exp", "save", "--quiet", "--force", "--name", name, stage)
        pattern = f"refs/exps/*/*/{name}"
        found = commands.git("for-each-ref", "--format=%(refname)", pattern, at=self._folder)
        push = ("push", "--quiet", "--force", "origin", f"{found}:{found}")
        patiently(lambda: commands.git(*push, at=self._folder))
        if complete and self._job.remote:
            stages = ("--run-cache", "preprocess", "train")
            patiently(lambda: self._dvc("push", "--quiet", *stages))
        present = _metrics(self._folder) | (_costs(self._folder) if complete else {})
        result = self._result(present)
        if complete:
            self._progress = Progress([*self._progress.folds, present])
            if fold + 1 < folds:
                self._begin_fold()
                return result
        shutil.rmtree(self._folder)
        return result | {"state": state, "done": True}

    def _result(self, present: dict[str, float]) -> dict[str, Any]:
        """What Tune gets: the means over the folds so far, the present one included."""
        folds = [*self._progress.folds, present]
        known = [key for key in present if all(key in fold for fold in folds)]
        means = {key: statistics.fmean(fold[key] for fold in folds) for key in known}
        return dict.fromkeys((*CURVES, *COSTS), math.nan) | means | {"curve": self._curve()}

    def _fail(self) -> dict[str, Any]:
        """A training that fails anew each time is done; what another host may do is an error."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        why = " | ".join(line.strip() for line in text.strip().splitlines()[-3:])
        if "No space left" in text or "disk is full" in text:
            raise UserError(f"{self._name}: the disk of {os.uname().nodename} is full. {why}")
        shutil.rmtree(self._folder)
        return self._result({}) | {"state": "fail", "why": why, "done": True}


def patiently(work: Callable[[], T]) -> T:
    """Do what needs a server; again until `PATIENCE` has passed, if it fails."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except (OSError, UserError):
            if time.monotonic() > end:
                raise
            time.sleep(5)


def _curve(folder: Path, metric: str) -> list[float]:
    """The metric after each epoch, without a last line that is still being written."""
    try:
        lines = (folder / CURVES[metric]).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [float(line.split("\t")[-1]) for line in lines[1:] if line.endswith("\n")]


def _metrics(folder: Path, epoch: int | None = None) -> dict[str, float]:
    """Validation metrics of an epoch, counted from 1; None: of the best."""
    curves = {metric: _curve(folder, metric) for metric in CURVES}
    losses = curves["validation_loss"]
    chosen = epoch or losses.index(min(losses)) + 1
    return {metric: curve[chosen - 1] for metric, curve in curves.items()} | {"epoch": chosen}


def _costs(folder: Path) -> dict[str, float]:
    """Minutes of training, megabytes of the model, milliseconds of a prediction on one core."""
    model = Classifier(folder / paths.CLASSIFIER, threads=1)
    photo = np.zeros((1, *model.input_shape), np.uint8)
    seconds = []
    for _ in range(TIMED):
        started = time.perf_counter()
        model.logits(photo)
        seconds.append(time.perf_counter() - started)
    return {
        "minutes": float(pd.read_json(folder / paths.TIMING, typ="series")["minutes"]),
        "megabytes": (folder / paths.CLASSIFIER / MODEL).stat().st_size / 1e6,
        "milliseconds": statistics.median(seconds) * 1000,
    }
