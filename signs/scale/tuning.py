"""A sweep as an experiment of Ray Tune: started, continued, reported on, promoted."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
from dvc.repo import Repo
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.search_generator import SearchGenerator

from signs.commands import dvc, git
from signs.errors import UserError
from signs.scale import cluster, shards, sweep_report
from signs.scale.sweep import STATE, Sweep
from signs.scale.trial import Job, Training, set_params

EPOCHS = 10_000  # more than a trial has: ASHA shall not end a trial for being complete
PATIENCE = 60  # seconds in which the DVC remote must answer
FAILURES = 3  # in a row end the sweep: then the settings are not to blame
RETRIES = 5  # of a trial whose host dies or whose disk is full
# Tune's own: an actor that ends the pipeline needs no ten minutes; results stand in our report.
TUNE = {
    "TUNE_FORCE_TRIAL_CLEANUP_S": "3",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class Pruner(ASHAScheduler):
    """ASHA, but a poor trial ends itself, because it must keep its experiment first."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """As of Tune; the step that follows is the trial's last."""
        if super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
            actor: Any = trial.temporary_state.ray_actor
            actor.prune.remote()
        return str(TrialScheduler.CONTINUE)


class Search(SearchGenerator):
    """Numbers the trials, and ends the search; unlike Tune's own limits, these may be raised.

    It also keeps the scheduler's state, which Tune forgets (ray-project/ray#30838).
    """

    def __init__(
        self, searcher: OptunaSearch, scheduler: TrialScheduler, name: str, sweep: Sweep
    ) -> None:
        super().__init__(searcher)
        self._scheduler, self._name, self._sweep = scheduler, name, sweep
        self._end = time.monotonic() + 3600 * (sweep.hours or math.inf)
        self.failures = 0

    def is_finished(self) -> bool:
        """Whether no other trial may begin."""
        late = time.monotonic() > self._end or self.failures >= FAILURES
        return late or self._counter >= self._sweep.trials

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """The next trial, whose configuration has its name."""
        experiment_spec["config"]["experiment"] = f"{self._name}-{self._counter:03d}"
        return super().create_trial_if_possible(experiment_spec)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Count failures in a row."""
        failed = error or (result or {}).get("state") == "fail"
        self.failures = self.failures + 1 if failed else 0
        super().on_trial_complete(trial_id, result, error)

    def save_to_dir(self, dirpath: str, session_str: str = "", **_: Any) -> None:
        """As of Tune, for searcher and scheduler."""
        super().save_to_dir(dirpath, session_str)
        if isinstance(self._scheduler, Pruner):
            self._scheduler.save(f"{dirpath}/scheduler.pkl")

    def restore_from_dir(self, dirpath: str) -> None:
        """As of Tune, for searcher and scheduler."""
        super().restore_from_dir(dirpath)
        if isinstance(self._scheduler, Pruner):
            self._scheduler.restore(f"{dirpath}/scheduler.pkl")


class Lines(tune.Callback):
    """Prints a line for each epoch and each trial, in place of Tune's tables."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Print what a trial tells."""
        words = [f"{m} {result[m]:.4f}" for m in self._sweep.metric if not math.isnan(result[m])]
        if "state" in result:
            words += [f"{key}={sweep_report.cell(trial.config[key])}" for key in self._sweep.space]
            words += [result.get("why", "")]
        state = result.get("state") or f"epoch {result['training_iteration']}"
        print(f"{trial}  {state}  {'  '.join(words)}", flush=True)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Say why a trial is given up for now."""
        print(f"{trial}  given up: {_why(trial)}", flush=True)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Say why a trial begins again."""
        print(f"{trial}  goes on from its last epoch: {_why(trial)}", flush=True)


class Study:
    """A sweep, as far as it got; its state is in its storage."""

    def __init__(self, name: str, sweep: Sweep, space: dict[str, BaseDistribution]) -> None:
        """Read the state.

        Raises:
            UserError: the storage cannot be used, or holds a sweep with another description.
        """
        self._name, self._sweep, self._space = name, sweep, space
        self._metrics: list[str] = [*sweep.metric]
        self._files, self._folder = shards.locate(sweep.storage or str(STATE.absolute()))
        # With more trials or hours, those that are done can still be compared.
        free = {"trials", "hours", "cores_per_trial", "gpus_per_trial", "storage"}
        self._about: dict[str, Any] = {"description": sweep.model_dump(exclude=free)}
        try:
            about = json.loads(self._read("sweep.json"))
        except FileNotFoundError:
            self._about["commit"] = git("rev-parse", "HEAD")
        except OSError as error:
            raise UserError(f"The storage of the sweep cannot be read: {error}") from error
        else:
            if about["description"] != self._about["description"]:
                raise UserError(
                    f"{name}.yaml has changed since its first trial, in more than trials and "
                    f"hours. Give the file another name, or remove {self._folder}/{name} to start "
                    "from the beginning."
                )
            self._about = about

    def run(self, remote: bool) -> int:
        """Run the trials that are left; 130 if Ctrl-C stopped it, else 0.

        Args:
            remote: trials clone origin, and send their experiments and files to the remotes.

        Raises:
            UserError: the trials cannot be run, or several failed in a row.
        """
        if remote:
            _check_remotes(self._about["commit"])
        ray = cluster.start()
        try:
            job = self._job(ray, remote)
            cluster.check_hosts(ray, {"CPU": job.cores, "GPU": job.gpus})
            self._write("sweep.json", json.dumps(self._about))
            search = self._tune(job)
        finally:
            ray.shutdown()
        if remote:
            git("fetch", "--quiet", "origin", f"+refs/exps/*/*/{self._name}-*:refs/exps/*")
        self.report()
        if search.failures >= FAILURES:
            raise UserError(f"{FAILURES} trials failed in a row; the reasons stand above.")
        if all("state" in known.last_result for known in self._trials()):
            return 0
        print("Stopped. Give the same command again to continue.", file=sys.stderr)
        return 130

    def report(self) -> None:
        """Write the page, and print the best trial."""
        study = self._study()
        study.set_user_attr("commit", self._about["commit"])
        sweep_report.write(study, self._metrics, STATE / f"{self._name}.html")

    def promote(self, number: int, pull: bool) -> None:
        """Run the whole pipeline with a trial's settings; commit them if the gate accepts them.

        Args:
            number: of the trial; below 0 for the best.
            pull: get what other hosts trained from the DVC remote.

        Raises:
            UserError: no such trial, or the gate refuses it: the working tree is as before.
        """
        name = self._best() if number < 0 else f"{self._name}-{number:03d}"
        chosen = next((known for known in self._trials() if _experiment(known) == name), None)
        if chosen is None:
            raise UserError(f"There is no trial {name}.")
        set_params(Path(), self._sweep.settings | {key: chosen.config[key] for key in self._space})
        if chosen.last_result.get("state") == "pruned" and chosen.checkpoint:
            chosen.checkpoint.to_directory(".")  # has .resume: the training goes on from there
        for command in (("dvc", "repro", *(["--pull"] if pull else [])), ("signs", "gate")):
            # Its output goes to the terminal.
            if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
                git("restore", ".")
                git("clean", "--quiet", "--force", "-d", "metrics")
                dvc("checkout", "--quiet", "--force", check=False)
                raise UserError(
                    f"{name} is not promoted; the reason stands above. The working tree is as "
                    "before."
                )
        git("add", "--all")
        git("commit", "--quiet", "--message", f"Take the settings of trial {name}")
        print(f"{name} is committed. `make push release promote` publishes and deploys it.")

    def _tune(self, job: Job) -> Search:
        sweep, metrics = self._sweep, self._metrics
        modes = [_mode(metric) for metric in metrics]
        scheduler: TrialScheduler = FIFOScheduler()
        if sweep.pruner == "asha":
            scheduler = Pruner(
                metric=metrics[0],
                mode=modes[0],
                max_t=EPOCHS,
                grace_period=sweep.warmup,
                reduction_factor=3,
            )
        sampler: Any = optuna.samplers.RandomSampler(sweep.seed)
        if sweep.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(n_startup_trials=sweep.startup, seed=sweep.seed)
        one = len(metrics) == 1
        searcher = OptunaSearch(
            self._space,
            metric=metrics[0] if one else metrics,
            mode=modes[0] if one else modes,
            sampler=sampler,
        )
        search = Search(searcher, scheduler, self._name, sweep)
        resume: Any = tune.ResumeConfig.ResumeType.RESUME
        os.environ |= TUNE
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        trainable = tune.with_parameters(Training, job=job)
        tune.run(
            tune.with_resources(trainable, {"cpu": job.cores, "gpu": job.gpus}),
            name=self._name,
            config={"experiment": ""},
            num_samples=-1,
            storage_path=self._folder,
            storage_filesystem=self._files,
            search_alg=search,
            scheduler=scheduler,
            callbacks=[Lines(sweep)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1),
            sync_config=tune.SyncConfig(sync_artifacts=True),
            max_failures=RETRIES,
            raise_on_failed_trial=False,
            trial_name_creator=_experiment,
            trial_dirname_creator=_experiment,
            resume_config=tune.ResumeConfig(errored=resume) if self._trials() else None,
            verbose=0,
        )
        return search

    def _job(self, ray: Any, remote: bool) -> Job:
        sweep = self._sweep
        found = [int(host["Resources"].get("CPU", 0)) for host in ray.nodes() if host["Alive"]]
        home = "~/.cache/traffic-signs"
        return Job(
            source=git("remote", "get-url", "origin") if remote else str(Path.cwd()),
            commit=self._about["commit"],
            settings=sweep.settings,
            searched=list(self._space),
            metric=sweep.metric[0],
            folds=sweep.folds,
            cores=sweep.cores_per_trial or min(filter(None, found), default=1),
            gpus=sweep.gpus_per_trial,
            home=f"{home}/trials" if remote else str(STATE.absolute() / ".clones"),
            cache=f"{home}/cache" if remote else dvc("cache", "dir").strip(),
            remote=remote,
        )

    def _trials(self) -> list[Trial]:
        try:
            place = f"{self._folder}/{self._name}"
            known = tune.ExperimentAnalysis(place, storage_filesystem=self._files).trials or []
        except ValueError:  # it has not begun
            return []
        return sorted(known, key=_experiment)

    def _best(self) -> str:
        if len(self._sweep.metric) > 1:
            raise UserError("With several metrics no trial is the best: name one, --promote 3.")
        try:
            return str(self._study().best_trial.user_attrs["experiment"])
        except ValueError as error:
            raise UserError(f"No trial of {self._name} is complete yet.") from error

    def _study(self) -> optuna.Study:
        """The trials that have ended, for Optuna's plots."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        modes = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        directions = [modes[_mode(metric)] for metric in self._metrics]
        study = optuna.create_study(study_name=self._name, directions=directions)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        for known in self._trials():
            result = known.last_result
            if known.status == Trial.ERROR or "state" in result:
                state = states.get(result.get("state", ""), TrialState.FAIL)
                complete = state == TrialState.COMPLETE
                values = [result[metric] for metric in self._sweep.metric] if complete else None
                study.add_trial(
                    optuna.trial.create_trial(
                        state=state,
                        values=values,
                        params={key: known.config[key] for key in self._space},
                        distributions=self._space,
                        user_attrs={**result, "experiment": known.config["experiment"]},
                        intermediate_values=dict(enumerate(result.get("curve", []), 1)),
                    )
                )
        return study

    def _read(self, name: str) -> bytes:
        with self._files.open_input_stream(f"{self._folder}/{self._name}/{name}") as file:
            return bytes(file.read())

    def _write(self, name: str, text: str) -> None:
        self._files.create_dir(f"{self._folder}/{self._name}")
        with self._files.open_output_stream(f"{self._folder}/{self._name}/{name}") as file:
            file.write(text.encode())


def _mode(metric: str) -> str:
    return "max" if metric == "validation_accuracy" else "min"


def _why(trial: Trial) -> str:
    return Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()[-1]


def _experiment(trial: Trial) -> str:
    return str(trial.config["experiment"])


def _check_remotes(commit: str) -> None:
    """Raise a `UserError` if git or DVC's remote cannot be used, or lacks the commit."""
    git("fetch", "--quiet", "origin")
    if not git("branch", "--remotes", "--contains", commit):
        raise UserError(f"Push {commit[:7]} to origin first: trials clone it from there.")

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no answer for {PATIENCE} s")

    # Without keys, S3's client searches for them for more than ten minutes.
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        with Repo() as repo:
            remote = repo.cloud.get_remote()
            remote.fs.makedirs(remote.path, exist_ok=True)
            remote.fs.pipe_file(remote.fs.join(remote.path, "reachable"), b"")
    except Exception as error:  # those of DVC and of each kind of remote have no other base
        raise UserError(
            f"The DVC remote cannot be written to ({error}); see docs/remote.md."
        ) from error
    finally:
        signal.alarm(0)
