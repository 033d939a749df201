"""Search for better settings, judged on validation photos: a sweep, described in a YAML file.

    signs sweep sweeps/signs.yaml                run it, or continue it
    signs sweep sweeps/signs.yaml --workers 2    this many trials side by side
    signs sweep sweeps/signs.yaml --push         also send each experiment to the remotes
    signs sweep sweeps/signs.yaml --ray          on the cluster that RAY_ADDRESS names
    signs sweep sweeps/signs.yaml --report       only write the report
    signs sweep sweeps/signs.yaml --promote      commit the winner if it passes the gate

Optuna chooses the settings. Each trial is a DVC experiment NAME-NUMBER. The state of a sweep is in
the folder .sweeps/NAME.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import optuna
from dvc.repo import Repo
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from pydantic import Field, model_validator

from signs import params, progress
from signs.commands import dvc, git
from signs.errors import UserError
from signs.machine import cores
from signs.scale import sweep_report, trial
from signs.scale.trial import Result, Trial

if TYPE_CHECKING:
    from signs.scale.cluster import Cluster

SWEEPS = Path(".sweeps")
# Other values of these would judge trials on other photos, or would not change a training at all.
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
PATIENCE = 60  # seconds in which the DVC remote must answer
FAILURES = 3  # in a row end the sweep: then the settings are not to blame

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


class Span(params.Block):
    """An interval of the search space; of integers if both ends are integers."""

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
        """The same for Optuna; raises ValueError, for example for the logarithm of 0."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)


class Sweep(params.Block):
    """The content of a sweep file; sweeps/signs.yaml explains each key."""

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
        """In which direction the metric gets better."""
        return "minimize" if self.metric == "validation_loss" else "maximize"


def load(path: Path) -> Sweep:
    """Read and validate a sweep file.

    Raises:
        ParamsError: a value cannot be used. The ends of each interval and all choices are
            validated as if they stood in params.yaml.
    """
    sweep = params.validate(Sweep, params.read(path), path)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", path.stem):
        raise params.ParamsError(
            f"{path}: experiments get its name, so only letters, digits, _ and - are allowed."
        )
    base = params.read()
    params.assign(base, sweep.settings)
    settings = params.validate(params.Params, base, f"{path}: settings")
    # With that data set the validation photos are synthetic, too.
    fixed = (*NOT_SEARCHED, *(["synthesize."] if settings.dataset == "synthetic" else []))
    for key, entry in space(path, sweep).items():
        if f"{key}.".startswith(fixed):
            raise params.ParamsError(
                f"{path}: space.{key} cannot be searched, because its trials could not be "
                "compared. It may stand under settings, the same for all trials."
            )
        network = re.match(r"(?:train|preprocess\.images)\.(compact|classic)\.", key)
        if network and network[1] != settings.train.network and "train.network" not in sweep.space:
            raise params.ParamsError(
                f"{path}: space.{key} changes nothing, as train.network is "
                f"{settings.train.network!r}."
            )
        for value in (
            entry.choices if isinstance(entry, CategoricalDistribution) else (entry.low, entry.high)
        ):
            content = deepcopy(base)
            params.assign(content, {key: value})
            params.validate(params.Params, content, f"{path}: space")
    return sweep


def space(path: Path, sweep: Sweep) -> dict[str, Distribution]:
    """The search space for Optuna, by dotted key.

    Raises:
        ParamsError: an entry is neither a list of choices nor an interval.
    """
    distributions: dict[str, Distribution] = {}
    for key, entry in sweep.space.items():
        if isinstance(entry, list) and entry:
            distributions[key] = CategoricalDistribution(entry)
        elif isinstance(entry, dict):
            span = params.validate(Span, entry, f"{path}: space.{key}")
            distributions[key] = span.distribution()
        else:
            raise params.ParamsError(
                f"{path}: space.{key} = {entry!r}: must be a list of choices, or low and high"
            )
    return distributions


def open_study(path: Path, sweep: Sweep) -> optuna.Study:
    """The study of a sweep file; a new one if there is none.

    Raises:
        UserError: there is a study, but with another description.
    """
    folder = SWEEPS / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(
        study_name=path.stem, storage=storage, direction=sweep.direction, load_if_exists=True
    )
    # With more trials or hours, those that are done can still be compared.
    description = sweep.model_dump(exclude={"trials", "hours"})
    if not study.get_trials(deepcopy=False):
        study.set_user_attr("description", description)
        study.set_user_attr("commit", git("rev-parse", "HEAD"))
    elif study.user_attrs["description"] != description:
        raise UserError(
            f"{path} has changed since its first trial, in more than trials and hours. Give the "
            f"file another name, or remove {folder} to start from the beginning."
        )
    # With the same seed, a sweep that continues would sample the same values again.
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
    """A running sweep: each thread takes a trial, runs it, and tells Optuna the result."""

    def __init__(
        self, path: Path, sweep: Sweep, workers: int | None, push: bool, on_ray: int | None
    ) -> None:
        """Open the study, and connect to the cluster if there is one.

        Args:
            path: of the sweep file.
            sweep: its content.
            workers: trials side by side; None: 1, or as many as the cluster has room for.
            push: send experiments to the remotes.
            on_ray: cores of a trial on the cluster; None: trials run here.
        """
        self._sweep, self._name = sweep, path.stem
        self._study, self._space = open_study(path, sweep), space(path, sweep)
        self._cache = Path(dvc("cache", "dir").strip()).resolve()
        self._commit = self._study.user_attrs["commit"]
        self._source, self._cluster = str(Path.cwd()), None
        if on_ray:
            self._source, self._cluster = _connect(self._commit, on_ray)
            workers = workers or self._cluster.slots
        # The hosts of a cluster push themselves.
        self._push = push and not on_ray
        self._workers = max(1, workers or 1)
        self._cores = on_ray or max(1, cores() // self._workers)
        trials = self._study.get_trials()
        # They keep their numbers, because their clones know how far they got.
        self._unfinished = [
            optuna.trial.Trial(self._study, known._trial_id)
            for known in trials
            if known.state == TrialState.RUNNING
        ]
        self._unpushed = [self._experiment(known.number) for known in trials if known.values]
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._failures, self._started = 0, time.monotonic()
        done = len(trials) - len(self._unfinished)
        if trials:
            print(
                f"The sweep continues at commit {self._commit[:7]}: {done} trials are done, "
                f"{len(self._unfinished)} unfinished."
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
            raise UserError(
                f"Some experiments are not pushed yet. Run `dvc exp push origin {names}`, or give "
                "the same command again."
            )

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
        task = Trial(name, self._source, self._commit, settings, metric, self._cores)
        if self._cluster:
            result = self._cluster.run(task, prune, log)
        else:
            trial.prepare(task, folder, self._cache)
            with log.open("ab") as file:
                result = trial.run(task, folder, prune, file)
        with self._lock:
            self._tell(asked, result, log)
        if not self._cluster:
            shutil.rmtree(folder)

    def _tell(self, asked: optuna.trial.Trial, result: Result, log: Path) -> None:
        name, metric = self._experiment(asked.number), self._sweep.metric
        for key, value in result.metrics.items():
            asked.set_user_attr(key, value)
        score = result.metrics.get(metric)
        self._study.tell(
            asked, score if result.state == "complete" else None, TrialState[result.state.upper()]
        )
        settings = "  ".join(f"{key}={sweep_report.cell(v)}" for key, v in asked.params.items())
        reached = "" if score is None else f"{metric} {score:.4f}  "
        self._bar.write(f"{name}  {result.state}  {reached}{settings}")
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
                dvc("exp", "push", "--quiet", "origin", *self._unpushed)
                self._unpushed.clear()
            except UserError as error:
                self._bar.write(f"{error}\nIt will be tried again after the next trial.")


def _connect(commit: str, cores_of_each: int) -> tuple[str, "Cluster"]:
    """The address from which hosts clone the repository, and the cluster."""
    try:
        from signs.scale.cluster import Cluster
    except ImportError as error:
        raise UserError("Trials on a cluster need Ray: `make setup-ray`.") from error
    git("fetch", "--quiet", "origin")
    if not git("branch", "--remotes", "--contains", commit):
        raise UserError(f"Push {commit[:7]} to origin first: the hosts clone it from there.")
    return git("remote", "get-url", "origin"), Cluster(cores_of_each)


def promote(path: Path, sweep: Sweep, pull: bool) -> None:
    """Run the whole pipeline with the winner's settings; commit them if the gate accepts them.

    Args:
        path: the sweep file.
        sweep: its content.
        pull: get what other hosts trained from the DVC remote.

    Raises:
        UserError: there is no winner, or the gate refuses it: the working tree is as before.
    """
    study = open_study(path, sweep)
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise UserError(f"No trial of {path.stem} is complete yet.")
    winner = study.best_trial
    name = f"{path.stem}-{winner.number:03d}"
    trial.set_params(Path(), sweep.settings | winner.params)
    for command in (("dvc", "repro", *(["--pull"] if pull else [])), ("signs", "gate")):
        # Its output goes to the terminal.
        if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
            git("restore", ".")
            git("clean", "--quiet", "--force", "-d", "metrics")
            dvc("checkout", "--quiet", "--force", check=False)
            raise UserError(
                f"{name} is not promoted; the reason stands above. The working tree is as before."
            )
    git("add", "--all")
    git("commit", "--quiet", "--message", f"Take the settings of trial {name}")
    print(f"{name} is committed. `make push release promote` publishes and deploys it.")


def _check_tree() -> None:
    # A line is a status and a name; the first one has lost a space at its start.
    changed = [line.split(maxsplit=1)[1] for line in git("status", "--porcelain").splitlines()]
    if changed:
        shown = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
        raise UserError(f"Commit or remove {shown} first: trials run what is committed.")


def _check_remotes() -> None:
    git("ls-remote", "--quiet", "origin", "HEAD")

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `signs sweep`."""
    parser.add_argument("file", type=Path, help="what to search, such as sweeps/signs.yaml")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="trials side by side (default: 1, or as many as the cluster has room for)",
    )
    parser.add_argument(
        "--ray",
        metavar="CORES",
        type=int,
        nargs="?",
        const=1,
        help="run on the cluster that RAY_ADDRESS names, with CORES cores for each trial (1)",
    )
    parser.add_argument("--push", action="store_true", help="send experiments to the remotes")
    parser.add_argument("--report", action="store_true", help="only write the report")
    parser.add_argument(
        "--promote", action="store_true", help="commit the winner if it passes the gate"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run a sweep, report on it or promote its winner; the exit status, 130 after Ctrl-C.

    Raises:
        UserError: the sweep cannot be run, or failed.
    """
    path: Path = arguments.file
    sweep = load(path)
    if not arguments.report:
        _check_tree()
    if arguments.push or (arguments.ray and not arguments.promote):
        _check_remotes()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The same as Ctrl-C: trials end, and the next run continues them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _only_one(path.stem):
        if arguments.promote:
            promote(path, sweep, bool(arguments.ray))
            return 0
        try:
            if not arguments.report:
                workers, push, ray = arguments.workers, arguments.push, arguments.ray
                Running(path, sweep, workers, push, ray).run()
        except KeyboardInterrupt:
            print("Stopped. Give the same command again to continue.", file=sys.stderr)
            return 130
        finally:
            sweep_report.write(open_study(path, sweep), sweep.metric, SWEEPS / path.stem)
    return 0


@contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Hold the lock of a sweep; raises a `UserError` if another process holds it."""
    folder = SWEEPS / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"The sweep {name} is running already.") from error
        yield
