"""A sweep as an experiment of Ray Tune: run, continued, reported on, promoted."""

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
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
from signs.scale.trial import RESUME, Job, Training, set_params

FAILURES = 3  # in a row end the sweep: then the settings are not to blame
RETRIES = 5  # of a trial whose host dies or whose disk is full
ENDLESS = 10_000  # epochs: ASHA shall not end a trial for being complete
# Trainings end at once, results stand in our report, and reasons of failures in error.txt.
TUNE = {
    "TUNE_FORCE_TRIAL_CLEANUP_S": "3",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",  # so that the state in the storage is no older than an epoch
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
    """Names the trials, and ends the search. Unlike Tune's own limits, these may be raised.

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


class Study:
    """A sweep, as far as it got; its state is in its storage."""

    def __init__(self, name: str, sweep: Sweep, space: dict[str, BaseDistribution]) -> None:
        """Read the state.

        Raises:
            UserError: the storage cannot be used, or holds a sweep with another description.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("ray").setLevel(logging.ERROR)  # it misses files that we do not keep
        self._name, self._sweep, self._space = name, sweep, space
        self._modes = ["max" if m == "validation_accuracy" else "min" for m in sweep.metric]
        self._files, self._folder = shards.locate(sweep.storage or str(STATE), str(Path.cwd()))
        self._about = f"{self._folder}/{name}/sweep.json"
        # With more trials or hours, those that are done can still be compared.
        free = {"trials", "hours", "cores_per_trial", "gpus_per_trial", "storage"}
        self._description = sweep.model_dump(exclude=free)
        self._commit, before = git("rev-parse", "HEAD"), self._description
        try:
            with self._files.open_input_stream(self._about) as file:
                self._commit, before = json.loads(file.read())
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"The storage of the sweep cannot be read: {error}") from error
        if before != self._description:
            raise UserError(
                f"{name}.yaml has changed since its first trial, in more than trials and hours. "
                f"Give the file another name, or remove {self._folder}/{name} to start again."
            )

    def run(self, remote: bool) -> int:
        """Run the trials that are left; 130 if Ctrl-C stopped it, else 0.

        Args:
            remote: trials clone origin, and send their experiments and files to the remotes.

        Raises:
            UserError: the trials cannot be run, or several failed in a row.
        """
        if remote:
            git("fetch", "--quiet", "origin")
            if not git("branch", "--remotes", "--contains", self._commit):
                raise UserError(f"Push {self._commit[:7]} to origin first: trials clone it there.")
            source, cache = git("remote", "get-url", "origin"), ""
        else:
            source, cache = str(Path.cwd()), str(Path(dvc("cache", "dir").strip()).absolute())
        ray = cluster.start()
        try:
            hosts = [host["Resources"].get("CPU", 0) for host in ray.nodes() if host["Alive"]]
            cores = self._sweep.cores_per_trial or int(min(filter(None, hosts), default=1))
            if len(hosts) > 1 and not self._sweep.storage:
                raise UserError("Name a storage that all hosts reach, as s3://bucket/sweeps.")
            cluster.check_hosts(ray, {"CPU": cores, "GPU": self._sweep.gpus_per_trial})
            self._describe()
            failures = self._tune(Job(self._sweep, source, self._commit, cores, cache))
        finally:
            ray.shutdown()
        if remote:
            pattern = f"refs/exps/*/*/{self._name}-*"
            for name in git("ls-remote", "origin", pattern).split()[1::2]:
                git("fetch", "--quiet", "origin", f"+{name}:{name}")
        self.report()
        if failures >= FAILURES:
            raise UserError(f"{FAILURES} trials failed in a row.")
        if any(known.status == Trial.ERROR for known in self._trials()):
            raise UserError("Trials failed. Give the same command again to continue them.")
        if all("state" in known.last_result for known in self._trials()):
            return 0
        print("Stopped. Give the same command again to continue.", file=sys.stderr)
        return 130

    def _describe(self) -> None:
        try:
            self._files.create_dir(f"{self._folder}/{self._name}")
            with self._files.open_output_stream(self._about) as file:
                file.write(json.dumps([self._commit, self._description]).encode())
        except OSError as error:
            raise UserError(f"The storage of the sweep cannot be written: {error}") from error

    def report(self) -> None:
        """Write the page, and print the best trial and why others failed."""
        for known in self._trials():
            why = known.last_result.get("why")
            if why or known.status == Trial.ERROR:
                place = f"{self._folder}/{self._name}/{known}"
                print(f"{known} failed: {why or f'see error.txt in {place}'}")
        target = STATE / f"{self._name}.html"
        sweep_report.write(self._study(), [*self._sweep.metric], self._commit, target)

    def promote(self, number: int, pull: bool) -> None:
        """Run the whole pipeline with a trial's settings; commit them if the gate accepts them.

        Args:
            number: of the trial; below 0 for the best.
            pull: get what other hosts trained from the DVC remote.

        Raises:
            UserError: no such trial, or the gate refuses it: the working tree is as before.
        """
        best = [trial.user_attrs["experiment"] for trial in self._study().best_trials]
        if number < 0 and not best:
            raise UserError(f"No trial of {self._name} is complete yet.")
        if number < 0 and len(self._modes) > 1:
            raise UserError(f"Name the trial, as for example in --promote 3: {', '.join(best)}.")
        name = best[0] if number < 0 else f"{self._name}-{number:03d}"
        trials = [known for known in self._trials() if str(known) == name]
        if not trials:
            raise UserError(f"There is no trial {name}.")
        chosen = trials[0]
        set_params(Path(), self._sweep.settings | {key: chosen.config[key] for key in self._space})
        if chosen.last_result.get("state") == "pruned" and chosen.checkpoint:
            with chosen.checkpoint.as_directory() as state:  # the training goes on from there
                shutil.copytree(Path(state, RESUME), RESUME, dirs_exist_ok=True)
        for command in (("dvc", "repro", *(["--pull"] if pull else [])), ("signs", "gate")):
            # Its output goes to the terminal.
            if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
                git("restore", ".")
                git("clean", "--quiet", "--force", "-d", "metrics")
                dvc("checkout", "--quiet", "--force", check=False)
                raise UserError(
                    f"{name} is not promoted; the reason stands above. "
                    "The working tree is as before."
                )
        git("add", "--all")
        git("commit", "--quiet", "--message", f"Take the settings of trial {name}")
        print(f"{name} is committed. `make push release promote` publishes and deploys it.")

    def _tune(self, job: Job) -> int:
        """Run Tune; how many trials have failed in a row."""
        sweep, one = self._sweep, len(self._sweep.metric) == 1
        metrics: list[str] = [*sweep.metric]
        modes = self._modes
        asha: Any = {"max_t": ENDLESS, "grace_period": sweep.warmup, "reduction_factor": 3}
        pruner = Pruner(metric=metrics[0], mode=modes[0], **asha)
        scheduler = pruner if sweep.pruner == "asha" else FIFOScheduler()
        tpe = optuna.samplers.TPESampler(n_startup_trials=sweep.startup, seed=sweep.seed)
        searcher = OptunaSearch(
            self._space,
            metric=metrics[0] if one else metrics,
            mode=modes[0] if one else modes,
            sampler=tpe if sweep.sampler == "tpe" else optuna.samplers.RandomSampler(sweep.seed),
        )
        search = Search(searcher, scheduler, self._name, sweep)
        trainable = tune.with_parameters(Training, job=job)
        resources = {"cpu": job.cores, "gpu": sweep.gpus_per_trial}
        resume: Any = tune.ResumeConfig.ResumeType.RESUME
        resume_config = tune.ResumeConfig(errored=resume) if self._trials() else None
        os.environ |= TUNE
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        tune.run(
            tune.with_resources(trainable, resources),
            name=self._name,
            config={"experiment": ""},
            num_samples=sweep.trials,
            storage_path=self._folder,
            storage_filesystem=self._files,
            search_alg=search,
            scheduler=scheduler,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            sync_config=tune.SyncConfig(sync_artifacts=True),
            max_failures=RETRIES,
            reuse_actors=True,
            raise_on_failed_trial=False,
            trial_name_creator=_experiment,
            trial_dirname_creator=_experiment,
            resume_config=resume_config,
            verbose=1,
        )
        return search.failures

    def _trials(self) -> list[Trial]:
        try:
            place = f"{self._folder}/{self._name}"
            known = tune.ExperimentAnalysis(place, storage_filesystem=self._files).trials or []
        except ValueError:  # it has not begun
            return []
        return sorted(known, key=str)

    def _study(self) -> optuna.Study:
        """The trials that have ended, for Optuna's plots."""
        directions = [StudyDirection[f"{mode.upper()}IMIZE"] for mode in self._modes]
        study = optuna.create_study(study_name=self._name, directions=directions)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        for known in self._trials():
            result = known.last_result
            if "state" not in result and known.status != Trial.ERROR:
                continue
            state = states.get(result.get("state", ""), TrialState.FAIL)
            complete = state == TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=[result[m] for m in self._sweep.metric] if complete else None,
                    params={key: known.config[key] for key in self._space},
                    distributions=self._space,
                    user_attrs={**result, "experiment": str(known)},
                    intermediate_values=dict(enumerate(result.get("curve", []), 1)),
                )
            )
        return study


def _experiment(trial: Trial) -> str:
    return str(trial.config["experiment"])
