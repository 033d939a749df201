"""Search for better settings on validation photos: a sweep, described in a YAML file.

    make sweep SWEEP=sweeps/signs.yaml                        run it, or go on where it was
    make sweep SWEEP=sweeps/signs.yaml ARGS='--workers 2'     so many trials side by side
    make sweep SWEEP=sweeps/signs.yaml ARGS=--push            send each to the remotes, too
    make sweep SWEEP=sweeps/signs.yaml ARGS=--ray             on the cluster of RAY_ADDRESS
    make sweep SWEEP=sweeps/signs.yaml ARGS=--report          the page alone
    make sweep-promote SWEEP=sweeps/signs.yaml                the winner, if the gate lets it pass

Optuna chooses the settings; each trial is a DVC experiment NAME-NUMBER. All that a sweep
remembers lies in .sweeps/NAME.
"""

import argparse
import fcntl
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import optuna
from dvc.repo import Repo
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from pydantic import Field, model_validator

from signs import params, progress
from signs.errors import UserError, run_stage
from signs.parallel import cores
from signs.scale import sweep_report, trial

if TYPE_CHECKING:
    from signs.scale.cluster import Cluster

SWEEPS = Path(".sweeps")
# Other values of these would score trials on other photos, or not change a training at all.
NOT_SEARCHED = (
    "dataset.",
    "preprocess.split.",
    "preprocess.max_problems.",
    "train.target_precision.",
    "train.target_coverage.",
    "train.compact.validation_images.",
    "train.classic.validation_images.",
    "evaluate.",
    "gate.",
    "verify.",
)
PATIENCE = 60  # seconds
FAILURES = 3  # in a row: the fault is not with the settings

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


class Span(params.Block):
    """An interval of the space: of integers if both ends are written so."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _spans(self) -> "Span":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must stay below high ({self.high})")
        self.distribution()
        return self

    def distribution(self) -> Distribution:
        """As Optuna has it; raises ValueError, as for logarithms of 0."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)


class Sweep(params.Block):
    """What a sweep file holds; sweeps/signs.yaml explains each key."""

    metric: Literal["validation_loss", "validation_accuracy"]
    trials: params.Count
    hours: params.Positive | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    startup: Annotated[int, Field(ge=0)] = 5
    warmup: Annotated[int, Field(ge=0)] = 1
    seed: params.Seed = 1
    settings: dict[str, Any] = Field(default_factory=dict)
    space: Annotated[dict[str, Any], Field(min_length=1)]

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Of the metric."""
        return "minimize" if self.metric == "validation_loss" else "maximize"


def load(path: Path) -> Sweep:
    """A sweep file.

    Raises:
        ParamsError: something in it cannot be used; each value that a trial could get was
            checked as if it stood in params.yaml.
    """
    sweep = params.validate(Sweep, params.read(path), path)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", path.stem):
        raise params.ParamsError(
            f"{path}: its name is the experiments', so of letters, digits, _, -"
        )
    base = _with(params.read(), sweep.settings)
    settings = params.validate(params.Params, base, f"{path}: settings")
    # There the drawn photos are those of validation, too.
    fixed = (*NOT_SEARCHED, *(["synthesize."] if settings.dataset == "synthetic" else []))
    for key, entry in space(path, sweep).items():
        if f"{key}.".startswith(fixed):
            raise params.ParamsError(
                f"{path}: space.{key} cannot be searched, as trials could not be compared then. "
                "It may stand under settings, the same for all trials."
            )
        network = re.match(r"(?:train|preprocess\.images)\.(compact|classic)\.", key)
        if network and network[1] != settings.train.network and "train.network" not in sweep.space:
            raise params.ParamsError(
                f"{path}: space.{key} changes nothing, as train.network is "
                f"{settings.train.network!r}."
            )
        ends = (
            entry.choices if isinstance(entry, CategoricalDistribution) else (entry.low, entry.high)
        )
        for value in ends:
            params.validate(params.Params, _with(base, {key: value}), f"{path}: space")
    return sweep


def space(path: Path, sweep: Sweep) -> dict[str, Distribution]:
    """What each parameter may be, as Optuna has it.

    Raises:
        ParamsError: neither choices nor an interval.
    """
    found: dict[str, Distribution] = {}
    for key, entry in sweep.space.items():
        if isinstance(entry, list) and entry:
            found[key] = CategoricalDistribution(entry)
        elif isinstance(entry, dict):
            found[key] = params.validate(Span, entry, f"{path}: space.{key}").distribution()
        else:
            raise params.ParamsError(
                f"{path}: space.{key} = {entry!r}: a list of choices, or low and high"
            )
    return found


def _with(content: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    content = deepcopy(content)
    for key, value in settings.items():
        *blocks, last = key.split(".")
        block = content
        for name in blocks:
            if not isinstance(block.get(name), dict):
                block[name] = {}
            block = block[name]
        block[last] = value
    return content


def open_study(path: Path, sweep: Sweep) -> optuna.Study:
    """The study of a sweep file, a new one if there is none.

    Raises:
        UserError: the one that is there has another description.
    """
    folder = SWEEPS / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(
        study_name=path.stem, storage=storage, direction=sweep.direction, load_if_exists=True
    )
    # More trials or hours do not make those that are done incomparable.
    description = sweep.model_dump(exclude={"trials", "hours"})
    if not study.get_trials(deepcopy=False):
        study.set_user_attr("description", description)
        study.set_user_attr("commit", trial.call("git", "rev-parse", "HEAD").strip())
    elif study.user_attrs["description"] != description:
        raise UserError(
            f"{path} has changed since its first trial, by more than trials and hours; give the "
            f"file another name, or remove {folder} and begin anew."
        )
    # Else a sweep that goes on would draw the same numbers again.
    seed = sweep.seed + len(study.get_trials(deepcopy=False))
    if sweep.sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=sweep.startup, seed=seed)
    else:
        study.sampler = optuna.samplers.RandomSampler(seed)
    if sweep.pruner == "median":
        study.pruner = optuna.pruners.MedianPruner(sweep.startup, sweep.warmup)
    elif sweep.pruner == "hyperband":
        study.pruner = optuna.pruners.HyperbandPruner(min_resource=max(1, sweep.warmup))
    else:
        study.pruner = optuna.pruners.NopPruner()
    return study


class Running:
    """A sweep at work: threads that each take a trial, run it and tell Optuna what came out."""

    def __init__(
        self, path: Path, sweep: Sweep, workers: int | None, push: bool, on_ray: int | None
    ) -> None:
        self._sweep, self._name = sweep, path.stem
        self._study, self._space = open_study(path, sweep), space(path, sweep)
        self._cache = Path(trial.call("dvc", "cache", "dir").strip()).resolve()
        self._commit = self._study.user_attrs["commit"]
        # Hosts of a cluster push themselves what they made.
        self._cluster, self._push = None, push and not on_ray
        if on_ray:
            self._cluster = _connect(self._commit, on_ray)
            workers = workers or self._cluster.places
        self._workers = max(1, workers or 1)
        trials = self._study.get_trials()
        # The same trials once more: their clones know how far they were.
        self._unfinished = [
            optuna.trial.Trial(self._study, found._trial_id)
            for found in trials
            if found.state == TrialState.RUNNING
        ]
        self._unpushed = [self._experiment(found.number) for found in trials if found.values]
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._failures, self._started = 0, time.monotonic()
        done = len(trials) - len(self._unfinished)
        if trials:
            left = f"{len(self._unfinished)} unfinished"
            print(
                f"The sweep goes on from commit {self._commit[:7]}: {done} trials are done, {left}."
            )
        self._bar = progress.bar(sweep.trials, self._name, " trials", initial=done)

    def run(self) -> None:
        """Run all trials that are left.

        Raises:
            UserError: several trials failed in a row, or git or DVC failed.
        """
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(self._work) for _ in range(self._workers)]
            try:
                wait(futures)
            except KeyboardInterrupt:
                self._stop.set()
                raise
        self._bar.close()
        for error in filter(None, (future.exception() for future in futures)):
            if not isinstance(error, InterruptedError):
                raise error
        if self._push and self._unpushed:
            names = " ".join(self._unpushed)
            raise UserError(f"Not pushed yet: `dvc exp push origin {names}`, or run this again.")

    def _experiment(self, number: int) -> str:
        return f"{self._name}-{number:03d}"

    def _work(self) -> None:
        try:
            while (asked := self._next()) is not None:
                self._run(asked)
        except BaseException:
            self._stop.set()
            raise

    def _next(self) -> optuna.trial.Trial | None:
        with self._lock:
            if self._unfinished:
                return self._unfinished.pop(0)
            hours = (time.monotonic() - self._started) / 3600
            late = self._sweep.hours is not None and hours > self._sweep.hours
            if late or len(self._study.get_trials(deepcopy=False)) >= self._sweep.trials:
                return None
            return self._study.ask({**self._space})

    def _run(self, asked: optuna.trial.Trial) -> None:
        name, metric = self._experiment(asked.number), self._sweep.metric
        folder = SWEEPS / self._name / name
        reported = len(self._study.trials[asked.number].intermediate_values)

        def prune(curve: list[float]) -> bool:
            nonlocal reported
            if self._stop.is_set():
                raise InterruptedError
            if len(curve) <= reported:
                return False
            with self._lock:
                for epoch in range(reported + 1, len(curve) + 1):
                    asked.report(curve[epoch - 1], epoch)
                    self._bar.write(f"{name}  epoch {epoch}  {metric} {curve[epoch - 1]:.4f}")
                reported = len(curve)
                return asked.should_prune()

        settings, log = self._sweep.settings | asked.params, folder.with_suffix(".log")
        if self._cluster:
            result = self._cluster.run(name, settings, metric, prune, log)
        else:
            trial.prepare(folder, str(Path.cwd()), self._commit, settings, self._cache)
            threads = max(1, cores() // self._workers)
            with log.open("ab") as file:
                result = trial.run(folder, name, metric, prune, file, threads)
        with self._lock:
            self._tell(asked, result, log)
        if not self._cluster:
            shutil.rmtree(folder)

    def _tell(self, asked: optuna.trial.Trial, result: trial.Result, log: Path) -> None:
        name, metric = self._experiment(asked.number), self._sweep.metric
        for key, value in result.measures.items():
            asked.set_user_attr(key, value)
        score = result.measures.get(metric)
        self._study.tell(
            asked, score if result.state == "complete" else None, TrialState[result.state.upper()]
        )
        settings = "  ".join(f"{key}={sweep_report.cell(v)}" for key, v in asked.params.items())
        found = "" if score is None else f"{metric} {score:.4f}  "
        self._bar.write(f"{name}  {result.state}  {found}{settings}")
        self._bar.update()
        if result.state == "fail":
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            self._bar.write("\n".join(f"    {line}" for line in last))
            self._failures += 1
            if self._failures == FAILURES:
                raise UserError(f"{FAILURES} trials failed in a row; {log} says why.")
            return
        self._failures = 0
        self._unpushed.append(name)
        if self._push:
            try:
                trial.call("dvc", "exp", "push", "--quiet", "origin", *self._unpushed)
                self._unpushed.clear()
            except UserError as error:
                self._bar.write(f"{error}\nIt will be tried again after the next trial.")


def _connect(commit: str, cores_of_each: int) -> "Cluster":
    try:
        from signs.scale.cluster import Cluster
    except ImportError as error:
        raise UserError("Trials on a cluster need Ray: `make setup-ray`.") from error
    trial.call("git", "fetch", "--quiet", "origin")
    if not trial.call("git", "branch", "--remotes", "--contains", commit):
        raise UserError(f"Push {commit[:7]} to origin first: the hosts clone it from there.")
    address = trial.call("git", "remote", "get-url", "origin").strip()
    return Cluster(address, commit, cores_of_each)


def promote(path: Path, sweep: Sweep, pull: bool) -> None:
    """Run the whole pipeline with the winner's settings; commit that if the gate lets it pass.

    Args:
        path: the sweep file.
        sweep: what it holds.
        pull: fetch what other hosts trained from the DVC remote.

    Raises:
        UserError: there is no winner, or it is refused: the working tree is as before.
    """
    study = open_study(path, sweep)
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise UserError(f"No trial of {path.stem} is complete yet.")
    winner = study.best_trial
    name = f"{path.stem}-{winner.number:03d}"
    trial.set_params(Path(), sweep.settings | winner.params)
    for command in (("dvc", "repro", *(("--pull",) if pull else ())), ("signs.operations.gate",)):
        if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
            trial.call("git", "restore", ".")
            trial.call("git", "clean", "--quiet", "--force", "-d", "metrics")
            trial.call("dvc", "checkout", "--quiet", "--force", check=False)
            raise UserError(f"{name} is not promoted, see above; all is as it was before.")
    trial.call("git", "add", "--all")
    trial.call("git", "commit", "--quiet", "--message", f"Take the settings of trial {name}")
    print(f"{name} is committed; `make push release promote` sends it on its way.")


def _check_tree() -> None:
    changed = [line[3:] for line in trial.call("git", "status", "--porcelain").splitlines()]
    if changed:
        shown = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
        raise UserError(f"Commit or remove {shown} first: trials run what is committed.")


def _check_remotes() -> None:
    trial.call("git", "ls-remote", "--quiet", "origin", "HEAD")

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no answer for {PATIENCE} s")

    # Without keys, S3's client asks around for them for more than ten minutes.
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        with Repo() as repo:
            remote = repo.cloud.get_remote()
            remote.fs.makedirs(remote.path, exist_ok=True)
            remote.fs.pipe_file(remote.fs.join(remote.path, "reachable"), b"")
    except Exception as error:  # DVC's, and those of each kind of remote, have no other base
        raise UserError(
            f"The DVC remote cannot be written to ({error}); see docs/remote.md."
        ) from error
    finally:
        signal.alarm(0)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Search for better settings.")
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--workers",
        type=int,
        help="trials side by side; default: 1, or as many as the cluster has room for",
    )
    parser.add_argument(
        "--ray",
        metavar="CORES",
        type=int,
        nargs="?",
        const=1,
        help="run on the cluster of RAY_ADDRESS, so many cores a trial (1)",
    )
    parser.add_argument("--push", action="store_true", help="send experiments to the remotes")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--promote", action="store_true", help="commit the winner after the gate")
    arguments = parser.parse_args()
    path = arguments.file
    sweep = load(path)
    if not arguments.report:
        _check_tree()
    if arguments.push or (arguments.ray and not arguments.promote):
        _check_remotes()
    SWEEPS.joinpath(path.stem).mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # As Ctrl-C: trials end and are gone on with by the next run.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (SWEEPS / path.stem / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"The sweep {path.stem} is running already.") from error
        if arguments.promote:
            promote(path, sweep, bool(arguments.ray))
            return
        try:
            if not arguments.report:
                ray, push = arguments.ray, arguments.push
                Running(path, sweep, arguments.workers, push, ray).run()
        except KeyboardInterrupt:
            sys.exit("Stopped; the same command goes on from here.")
        finally:
            sweep_report.write(open_study(path, sweep), sweep.metric, SWEEPS / path.stem)


if __name__ == "__main__":
    run_stage(main)
