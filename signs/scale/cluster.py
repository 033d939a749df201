"""Trials of a sweep as tasks of a Ray cluster: each in a clone of its own, on whichever host.

Hosts share nothing but the git server and the DVC remote. A task clones the repository, pulls,
trains, and sends experiment and files back. The trials of a host that dies run again on another
one; which of them are done is known to the study alone, where the sweep was started.

Ray is there after `make setup-ray`; of the sweeps' modules only this one imports it.
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

from signs.errors import UserError
from signs.scale import trial

# On each host: DVC's cache, and the clones of trials that are not done.
HOME = Path("~/.cache/traffic-signs")
LOCKED = Path("requirements/ray.txt")
PATIENCE = 60  # seconds until a host must have said what it has


class Board:
    """What trials far away and the sweep tell each other."""

    def __init__(self) -> None:
        self._curves: dict[str, list[float]] = {}
        self._pruned: set[str] = set()

    def tell(self, name: str, curve: list[float]) -> bool:
        """A trial's curve so far; whether it shall end."""
        self._curves[name] = curve
        return name in self._pruned

    def curve(self, name: str) -> list[float]:
        """What it told last; nothing before it has begun."""
        return self._curves.get(name, [])

    def prune(self, name: str) -> None:
        """The trial shall end."""
        self._pruned.add(name)


class Cluster:
    """The cluster that RAY_ADDRESS names.

    Attributes:
        places: trials for which its hosts of now have room side by side.
    """

    def __init__(self, source: str, commit: str, cores: int) -> None:
        """Connect.

        Args:
            source: address of the git repository, for all hosts; has the commit.
            commit: of the code that all trials share.
            cores: of each trial.

        Raises:
            UserError: no cluster answers, none of its hosts has so many cores, or one has another
                Python or other packages than this.
        """
        if "RAY_ADDRESS" not in os.environ:
            raise UserError("Set RAY_ADDRESS to the cluster's head, as in 10.0.0.1:6379.")
        try:
            ray.init(
                runtime_env={"py_modules": [str(Path(__file__).parents[1])]},
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:  # Ray's have no common base
            why = str(error).strip().partition("\n")[0]
            address = os.environ["RAY_ADDRESS"]
            raise UserError(f"No Ray cluster answers at {address} ({why}).") from error
        hosts = [host for host in ray.nodes() if host["Alive"]]
        _compare_packages(hosts)
        self.places = sum(int(host["Resources"].get("CPU", 0)) // cores for host in hosts)
        if self.places < 1:
            raise UserError(f"No host of the cluster gives Ray the {cores} cores of a trial.")
        self._source, self._commit, self._cores = source, commit, cores
        # Not on a host whose end the sweep shall survive.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board: Any = ray.remote(Board)
        self._board = board.options(num_cpus=0, scheduling_strategy=here).remote()
        # Without end: a host's death is not the trial's fault.
        self._task: Any = ray.remote(num_cpus=cores, max_retries=-1)(_run)

    def run(
        self,
        name: str,
        settings: dict[str, Any],
        metric: str,
        prune: Callable[[list[float]], bool],
        log: Path,
    ) -> trial.Result:
        """Run a trial on some host and fetch its experiment; arguments as of `trial.run`.

        Raises:
            UserError: git, DVC or the cluster failed.
        """
        job = (self._source, self._commit, settings, name, metric, self._cores)
        task = self._task.remote(self._board, *job)
        try:
            while not ray.wait([task], timeout=trial.POLL)[0]:
                if prune(ray.get(self._board.curve.remote(name))):
                    ray.get(self._board.prune.remote(name))
            result, said = ray.get(task)
            prune(ray.get(self._board.curve.remote(name)))
        except ray.exceptions.RayTaskError as error:
            raise UserError(f"{name}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise UserError(
                f"The cluster failed ({str(error).strip().splitlines()[-1]}); the same command "
                "goes on from here."
            ) from error
        except BaseException:
            ray.cancel(task)
            ray.wait([task], timeout=10)
            raise
        log.write_bytes(said)
        found: trial.Result = result
        if found.reference:
            trial.call("git", "fetch", "--quiet", "origin", f"+{found.reference}:{found.reference}")
        return found


def _compare_packages(hosts: list[dict[str, Any]]) -> None:
    """Raise a `UserError` if trials on one host would not be those of another."""
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
                "`make setup-ray` there, with the same Python and at the same commit."
            )


def _versions(packages: list[str]) -> dict[str, str | None]:
    """The versions of Python and of these packages here."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _run(
    board: Any,
    source: str,
    commit: str,
    settings: dict[str, Any],
    name: str,
    metric: str,
    cores: int,
) -> tuple[trial.Result, bytes]:
    """The task: the trial's result, and what its pipeline said."""
    home = HOME.expanduser()
    digest = hashlib.sha256(json.dumps([source, commit, settings, name]).encode()).hexdigest()
    folder = home / "trials" / f"{name}-{digest[:12]}"
    log = folder.with_suffix(".log")
    # What a sweep or a task left that was killed here; this trial goes on from its last epoch.
    trial.end_orphans(folder)
    trial.prepare(folder, source, commit, settings, home / "cache", pull=True)

    def prune(curve: list[float]) -> bool:
        return bool(ray.get(board.tell.remote(name, curve)))

    with log.open("ab") as file:
        result = trial.run(folder, name, metric, prune, file, cores)
    if result.state == "complete":
        trial.call("dvc", "push", "--quiet", "--run-cache", "preprocess", "train", at=folder)
    shutil.rmtree(folder)
    said = log.read_bytes()
    log.unlink()
    return result, said
