"""Trials of a sweep as tasks of a Ray cluster, each in its own clone on any host.

Hosts share only the git server and the DVC remote. A task clones the repository, pulls the data,
trains, and sends the experiment and its files back. If a host dies, Ray runs its trials again on
another host. Only the study knows which trials are done; it stays where the sweep was started.

Ray needs `make setup-ray`. No other module of sweeps imports it.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from signs import commands
from signs.errors import UserError
from signs.scale import trial
from signs.scale.trial import Result, Trial

# On each host: DVC's cache, and the clones of trials that are not done.
HOME = Path("~/.cache/traffic-signs")
LOCKED = Path("requirements/ray.txt")
PATIENCE = 60  # seconds in which a host must say which packages it has


class Board:
    """An actor through which running trials and the sweep exchange messages."""

    def __init__(self) -> None:
        self._curves: dict[str, list[float]] = {}
        self._pruned: set[str] = set()

    def report(self, name: str, curve: list[float]) -> bool:
        """Take a trial's curve so far; returns whether the trial must end."""
        self._curves[name] = curve
        return name in self._pruned

    def curve(self, name: str) -> list[float]:
        """The curve that a trial reported last; empty before its first report."""
        return self._curves.get(name, [])

    def prune(self, name: str) -> None:
        """Make a trial end."""
        self._pruned.add(name)


class Cluster:
    """The cluster that RAY_ADDRESS names.

    Attributes:
        slots: how many trials its present hosts can run side by side.
    """

    def __init__(self, cores: int) -> None:
        """Connect.

        Args:
            cores: of each trial.

        Raises:
            UserError: no cluster answers, none of its hosts has so many cores, or a host has
                another Python or other packages than this one.
        """
        if "RAY_ADDRESS" not in os.environ:
            raise UserError("Set RAY_ADDRESS to the cluster's head, for example 10.0.0.1:6379.")
        try:
            ray.init(
                runtime_env={"py_modules": [str(Path(__file__).parents[1])]},
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:  # Ray's exceptions have no common base
            why = str(error).strip().partition("\n")[0]
            address = os.environ["RAY_ADDRESS"]
            raise UserError(f"No Ray cluster answers at {address} ({why}).") from error
        hosts = [host for host in ray.nodes() if host["Alive"]]
        _compare_packages(hosts)
        self.slots = sum(int(host["Resources"].get("CPU", 0)) // cores for host in hosts)
        if self.slots < 1:
            raise UserError(f"No host of the cluster gives Ray the {cores} cores of a trial.")
        # The board stays on this host: the sweep must survive the end of any other.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board: Any = ray.remote(Board)
        self._board = board.options(num_cpus=0, scheduling_strategy=here).remote()
        # Retries are unlimited: the death of a host is not the trial's fault.
        self._task: Any = ray.remote(num_cpus=cores, max_retries=-1)(_run)

    def run(self, task: Trial, prune: Callable[[list[float]], bool], log: Path) -> Result:
        """Run a trial on some host and fetch its experiment; arguments as of `trial.run`.

        Raises:
            UserError: git, DVC or the cluster failed.
        """
        running = self._task.remote(self._board, task)
        try:
            while not ray.wait([running], timeout=trial.POLL)[0]:
                if prune(ray.get(self._board.curve.remote(task.name))):
                    ray.get(self._board.prune.remote(task.name))
            result, output = ray.get(running)
            prune(ray.get(self._board.curve.remote(task.name)))
        except ray.exceptions.RayTaskError as error:
            raise UserError(f"{task.name}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise UserError(
                f"The cluster failed ({str(error).strip().splitlines()[-1]}). Give the same "
                "command again to continue."
            ) from error
        except BaseException:
            ray.cancel(running)
            ray.wait([running], timeout=10)
            raise
        log.write_bytes(output)
        finished: Result = result
        if finished.reference:
            refspec = f"+{finished.reference}:{finished.reference}"
            commands.git("fetch", "--quiet", "origin", refspec)
        return finished


def _compare_packages(hosts: list[dict[str, Any]]) -> None:
    """Raise a `UserError` if a host's Python or packages differ from those of this host."""
    names = re.findall(r"^([\w.-]+)==", LOCKED.read_text(encoding="utf-8"), re.MULTILINE)
    ours = _versions(names)
    ask: Any = ray.remote(num_cpus=0)(_versions)
    for host in hosts:
        name = host["NodeManagerHostname"]
        there = NodeAffinitySchedulingStrategy(host["NodeID"], soft=False)
        try:
            theirs = ray.get(ask.options(scheduling_strategy=there).remote(names), timeout=PATIENCE)
        except ray.exceptions.RayError as error:
            raise UserError(f"The host {name} does not run tasks: see its Ray's logs.") from error
        differ = [
            f"{package} {theirs[package] or 'is missing'} (here {version or 'it is missing'})"
            for package, version in ours.items()
            if theirs[package] != version
        ]
        if differ:
            more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
            raise UserError(
                f"On the host {name}: {', '.join(differ[:3])}{more}. "
                "Run `make setup-ray` there, with the same Python and at the same commit."
            )


def _versions(packages: list[str]) -> dict[str, str | None]:
    """The versions of Python and of these packages on this host."""
    versions: dict[str, str | None] = {"Python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _run(board: Any, task: Trial) -> tuple[Result, bytes]:
    """The Ray task: a trial's result, and the output of its pipeline."""
    home = HOME.expanduser()
    identity = [task.source, task.commit, task.settings, task.name]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    folder = home / "trials" / f"{task.name}-{digest[:12]}"
    log = folder.with_suffix(".log")
    # A sweep or task that was killed here may have left processes, and a clone to continue with.
    trial.end_orphans(folder)
    trial.prepare(task, folder, home / "cache", pull=True)

    def prune(curve: list[float]) -> bool:
        return bool(ray.get(board.report.remote(task.name, curve)))

    with log.open("ab") as file:
        result = trial.run(task, folder, prune, file)
    if result.state == "complete":
        push = ("push", "--quiet", "--run-cache", "preprocess", "train")
        commands.dvc(*push, at=folder, environment=trial.site_cache(folder))
    shutil.rmtree(folder)
    output = log.read_bytes()
    log.unlink()
    return result, output
