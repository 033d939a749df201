"""Ray for sweeps and bulk work: on this machine, or the cluster that RAY_ADDRESS names."""

import logging
import os
import platform
import re
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from signs.errors import UserError
from signs.machine import cores

LOCKED = Path("requirements/ray.txt")
OBJECT_STORE = 2**28  # bytes; it holds no photos
PATIENCE = 60  # seconds in which a host must say which packages it has


def load() -> Any:
    """The module `ray`, not started; raises a `UserError` if it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if os.environ.get("RAY_ADDRESS", "127.").startswith(("127.", "localhost")):
        # Otherwise Ray on Linux replaces the loopback address by another one of the machine.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("This needs Ray, which is not installed: `make setup-ray`.") from error


def start(workers: int | None = None) -> Any:
    """The module `ray`, started here with so many cores (None: all), or connected to RAY_ADDRESS.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    ray = load()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    options["runtime_env"] = {"py_modules": [str(Path(__file__).parents[1])]}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"num_cpus": workers or cores(), "object_store_memory": OBJECT_STORE}
        # Otherwise Ray may join another user's cluster on this machine.
        options |= {"address": "local", "include_dashboard": False}
    try:
        ray.init(**options)
    except Exception as error:  # Ray's exceptions have no common base
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise UserError(f"No Ray answers at {where}: {str(error).strip()}") from error
    return ray


def check_hosts(ray: Any, need: dict[str, float]) -> None:
    """Raise a `UserError` if no host has what a task needs, or if one has other packages than this.

    `ray` is the module, started; `need` are a task's "CPU" and "GPU".
    """
    hosts = {host["NodeManagerHostname"]: host for host in ray.nodes() if host["Alive"]}
    have = {
        name: {key: host["Resources"].get(key, 0) for key in need} for name, host in hosts.items()
    }
    if not any(all(found[key] >= need[key] for key in need) for found in have.values()):
        listed = [f"{number:g} {key}" for key, number in need.items() if number]
        raise UserError(f"No host gives Ray the {' and '.join(listed)} of a trial: {have}.")
    names = re.findall(r"^([\w.-]+)==", LOCKED.read_text(encoding="utf-8"), re.MULTILINE)
    ours, ask = _versions(names), ray.remote(num_cpus=0)(_versions)
    for name, host in hosts.items():
        there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(host["NodeID"], False)
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
            raise UserError(
                f"On the host {name}: {', '.join(differ[:3])}{', …' if len(differ) > 3 else ''}. "
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
