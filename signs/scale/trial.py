"""One trial of a sweep: a training with its own settings, as Ray Tune runs it on any host.

A trial runs in its own clone of the repository, so trials share no lock, no params.yaml and no
output folder. The pipeline runs up to the train stage: no trial sees a test photo. The state of the
training goes to Tune after each epoch, so a trial goes on from there on any host. What remains of
it is a DVC experiment.
"""

import hashlib
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import funcy
import pandas as pd
from dvc.utils.serialize import modify_yaml
from ray import tune
from ray.tune.result import SHOULD_CHECKPOINT

from signs import commands, params, paths
from signs.errors import UserError
from signs.inference.classifier import MODEL, Classifier
from signs.inference.latency import milliseconds
from signs.scale.sweep import STATE, Sweep

HOME = Path("~/.cache/traffic-signs")  # on each host of a cluster: clones, and DVC's cache
# Results in git of the classifier that HEAD has. They must not pass for the trial's results.
RESULTS_OF_HEAD = (
    *(paths.TRAIN_METRICS, paths.TIMING, paths.EVALUATE_METRICS, paths.PICTURES, paths.MODEL_CARD),
)
CURVES = {f"validation_{m}": f"plots/metrics/validation/{m}.tsv" for m in ("loss", "accuracy")}
THREADS = "TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS OMP_NUM_THREADS OPENCV_FOR_THREADS_NUM"
READY = Path(".git/prepared")  # exists in a clone that is complete
RESUME, PROGRESS = ".resume", "progress.json"  # the train stage's state, and ours beside it
POLL = 0.5  # seconds
# Ends the pipeline with all its processes when the trial's process is gone, however it ended.
GUARD = """
import os, signal, subprocess, sys, threading
def wait_for_the_end():
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=wait_for_the_end, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
"""
FULL = re.compile("No space left|disk is full")
# A server may be gone for some minutes; a full disk needs a person.
patient: Any = funcy.retry(
    36,
    errors=(OSError, UserError),
    timeout=5,
    filter_errors=lambda error: not FULL.search(str(error)),
)
# The training replaces its state after each epoch.
again: Any = funcy.retry(10, errors=(FileNotFoundError, shutil.Error))


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share.

    Attributes:
        sweep: the content of its file.
        source: folder or address of the git repository that receives the experiments.
        commit: of the code.
        cores: of a trial.
        cache: DVC's cache on this machine; "" if data come from the DVC remote, and go there.
    """

    sweep: Sweep
    source: str
    commit: str
    cores: int
    cache: str = ""


def set_params(folder: Path, settings: Mapping[str, Any]) -> None:
    """Change values in the params.yaml of a repository; its comments stay."""
    path = folder / paths.PARAMS
    with modify_yaml(path) as content:
        params.assign(content, settings)
    # It writes 1e-05, which is a text for most readers of YAML.
    text = re.sub(r"(?m)(: -?\d+)(e-\d+)$", r"\1.0\2", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")


class Training(tune.Trainable):
    """A trial. Each step is an epoch; one more step ends each fold."""

    # As of Tune, but for a storage that does not answer.
    save = patient(tune.Trainable.save)

    def restore(self, checkpoint_path: Any) -> None:
        """As of Tune. If the checkpoint was deleted, the trial begins again.

        A newer one replaced it, but the machine that ran the sweep died before it could note that.
        """
        try:
            patient(super().restore)(checkpoint_path)
        except ValueError as error:
            print(error, file=sys.stderr)
            self._iteration = 0  # Tune has set it; ASHA would compare other epochs

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Make the clone; one that is complete stays."""
        assert job
        self._job, self._name = job, config["experiment"]
        settings = job.sweep.settings | {key: config[key] for key in job.sweep.space}
        identity = json.dumps([job.source, job.commit, settings, self._name])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        home = Path(job.source) / STATE / ".clones" if job.cache else HOME.expanduser() / "trials"
        self._folder = home / f"{self._name}-{digest}"
        self._environment = {"DVC_SITE_CACHE_DIR": str(self._folder / ".dvc/tmp/site")}
        self._folds: list[dict[str, float]] = []  # metrics of those that are complete
        self._epochs, self._pruned = 0, False
        self._process: subprocess.Popen[bytes] | None = None
        if not (self._folder / READY).exists():
            patient(self._clone)(settings)
        self._begin_fold()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over another trial: that saves the start of a process and its imports."""
        self.setup(new_config)
        return True

    def prune(self) -> None:
        """Let the next step be the last."""
        self._pruned = True

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch, or for the end of the pipeline."""
        if self._pruned:
            return self._finish("pruned")
        self._process = self._process or self._start()
        while self._trained(status := self._process.poll()) <= self._epochs:
            if status is not None:
                return self._fail() if status else self._finish("complete")
            time.sleep(POLL)
        self._epochs += 1
        return self._result(self._metrics(self._epochs))

    def cleanup(self) -> None:
        """End the pipeline, whatever Tune's reason is."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state of the training, which goes on meanwhile."""
        state = {"_folds": self._folds, "_epochs": self._epochs}
        Path(checkpoint_dir, PROGRESS).write_text(json.dumps(state), encoding="utf-8")
        if (self._folder / RESUME).exists():
            again(self._copy_state)(Path(checkpoint_dir, RESUME))

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from such a state."""
        vars(self).update(json.loads(Path(checkpoint_dir, PROGRESS).read_text(encoding="utf-8")))
        self._begin_fold()
        if (state := Path(checkpoint_dir, RESUME)).exists():
            shutil.copytree(state, self._folder / RESUME, dirs_exist_ok=True)

    def _copy_state(self, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        unfinished = shutil.ignore_patterns("unfinished")
        shutil.copytree(self._folder / RESUME, target, ignore=unfinished)

    def _clone(self, settings: Mapping[str, Any]) -> None:
        job, folder = self._job, self._folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        commands.git("clone", "--quiet", job.source, str(folder))
        # DVC finds no experiments of a detached HEAD.
        commands.git("checkout", "--quiet", "-B", "trial", job.commit, at=folder)
        cache = job.cache or HOME.expanduser() / "cache"
        config = f"[cache]\n    dir = {cache}\n    type = reflink,hardlink,copy\n"
        (folder / ".dvc/config.local").write_text(config, encoding="utf-8")
        if job.cache:
            # DVC fails if any data set is missing, even one that no stage needs.
            self._dvc("checkout", "--quiet", "--force", check=False)
        else:
            self._dvc("pull", "--quiet", "--force", "--run-cache", "--allow-missing")
        set_params(folder, settings)
        photos = paths.DATA / params.read(folder / paths.PARAMS)["dataset"]
        if job.cache and not (folder / photos).exists():  # one that DVC does not track
            (folder / paths.DATA).mkdir(exist_ok=True)
            (folder / photos).symlink_to(Path(job.source) / photos)
        (folder / READY).touch()

    def _dvc(self, *arguments: str, check: bool = True) -> None:
        commands.dvc(*arguments, at=self._folder, environment=self._environment, check=check)

    def _begin_fold(self) -> None:
        if self._job.sweep.folds > 1:
            set_params(self._folder, {"preprocess.split.fold": len(self._folds)})
        for path in RESULTS_OF_HEAD:
            result = self._folder / path
            shutil.rmtree(result) if result.is_dir() else result.unlink(missing_ok=True)

    def _start(self) -> "subprocess.Popen[bytes]":
        # Stages call `python`: it must be this one.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path} | self._environment
        environment |= dict.fromkeys(THREADS.split(), str(self._job.cores))
        if 0 < self._job.sweep.gpus_per_trial < 1:  # else TensorFlow takes all of its memory
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        command = [sys.executable, "-c", GUARD, sys.executable, "-m", "dvc", "repro", "train"]
        # A killed DVC leaves its locks; another process may have its number by now.
        (self._folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)
        # A trial that moves has a log for each time.
        self._log = Path(self.logdir, f"{int(time.time())}.log")
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

    def _trained(self, status: int | None) -> int:
        """The number of epochs whose state is kept; of all epochs if the pipeline has ended."""
        states = [int(state.name) for state in self._folder.glob(f"{RESUME}/*/[0-9]*")]
        epochs = len(self._curve())
        return epochs if status is not None else min(max(states, default=0), epochs)

    def _finish(self, state: str) -> dict[str, Any]:
        """Keep the experiment; the trial is done unless there is another fold."""
        self.cleanup()
        self._process, self._epochs = None, 0
        fold, complete = len(self._folds), state == "complete"
        name = self._name if self._job.sweep.folds == 1 else f"{self._name}-fold{fold}"
        # DVC would record a stage that did not run as dvc.lock has it, so name those that ran.
        stage = "train" if complete else "preprocess"
        self._dvc("exp", "save", "--quiet", "--force", "--name", name, stage)
        patient(self._send)(name, complete and not self._job.cache)
        present = self._metrics() | (self._costs() if complete else {})
        result = self._result(present)
        if complete:
            self._folds.append(present)
            if fold + 1 < self._job.sweep.folds:
                self._begin_fold()
                return result
        shutil.rmtree(self._folder)
        # A pruned trial keeps the checkpoint from which its training could go on.
        return result | {"state": state, "done": True, SHOULD_CHECKPOINT: complete}

    def _send(self, name: str, files: bool) -> None:
        pattern = f"refs/exps/*/*/{name}"
        found = commands.git("for-each-ref", "--format=%(refname)", pattern, at=self._folder)
        commands.git("push", "--quiet", "--force", "origin", f"{found}:{found}", at=self._folder)
        if files:
            self._dvc("push", "--quiet", "--run-cache", "preprocess", "train")

    def _fail(self) -> dict[str, Any]:
        """A training that fails anew each time is done; what another host may do is an error."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        why = " ".join(text.split()[-60:])
        if FULL.search(text):
            raise OSError(f"The disk of {os.uname().nodename} is full: {why}")
        shutil.rmtree(self._folder)
        return self._result({}) | {"state": "fail", "why": why, "done": True}

    def _result(self, present: dict[str, float]) -> dict[str, Any]:
        """What Tune gets: the means over the folds so far, the present one included."""
        folds, curve = [*self._folds, present], self._curve()[: self._epochs or None]
        known = [key for key in present if all(key in fold for fold in folds)]
        means = {key: statistics.fmean(fold[key] for fold in folds) for key in known}
        unknown = dict.fromkeys((*CURVES, "minutes", "megabytes", "milliseconds"), math.nan)
        return unknown | means | {"curve": curve, SHOULD_CHECKPOINT: True}

    def _curve(self, metric: str = "") -> list[float]:
        """The metric after each epoch, without a last line that is still being written."""
        path = self._folder / paths.TRAIN_METRICS / CURVES[metric or self._job.sweep.metric[0]]
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = text.splitlines(keepends=True)[1:]
        return [float(line.split("\t")[-1]) for line in lines if line.endswith("\n")]

    def _metrics(self, epoch: int = 0) -> dict[str, float]:
        """Validation metrics of an epoch, counted from 1; 0: of the last."""
        return {metric: self._curve(metric)[epoch - 1] for metric in CURVES}

    def _costs(self) -> dict[str, float]:
        """Minutes of training, megabytes of the model, milliseconds of a prediction on a core."""
        return {
            "minutes": float(pd.read_json(self._folder / paths.TIMING, typ="series")["minutes"]),
            "megabytes": (self._folder / paths.CLASSIFIER / MODEL).stat().st_size / 1e6,
            "milliseconds": milliseconds(Classifier(self._folder / paths.CLASSIFIER, threads=1)),
        }
