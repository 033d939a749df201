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
        why = str(error).strip().partition("\n")[0]
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise UserError(f"No Ray cluster answers at {where} ({why}).") from error
    return ray


def check_hosts(ray: Any, need: dict[str, float]) -> None:
    """Find out before the first task whether all hosts can do it.

    Args:
        ray: the module, started.
        need: resources of a task: "CPU", "GPU".

    Raises:
        UserError: no host has what a task needs, or a host's Python or packages differ from those
            of this host.
    """
    hosts = [host for host in ray.nodes() if host["Alive"]]
    if not any(all(h["Resources"].get(k, 0) >= n for k, n in need.items()) for h in hosts):
        wanted = " and ".join(f"{number:g} {kind}" for kind, number in need.items() if number)
        have = "; ".join(
            f"{host['NodeManagerHostname']}: "
            + ", ".join(f"{host['Resources'].get(kind, 0):g} {kind}" for kind in need)
            for host in hosts
        )
        raise UserError(f"No host gives Ray the {wanted} that a trial needs ({have}).")
    names = re.findall(r"^([\w.-]+)==", LOCKED.read_text(encoding="utf-8"), re.MULTILINE)
    ours, ask = _versions(names), ray.remote(num_cpus=0)(_versions)
    for host in hosts:
        name = host["NodeManagerHostname"]
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
            more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
            raise UserError(
                f"On the host {name}: {', '.join(differ[:3])}{more}. "
                "Run `make setup-ray` there, with the same Python and at the same commit."
            )


def _versions(packages: list[str]) -> dict[str, str | None]:
    """The versions of Python and of these packages on this host."""
    found = {
        m.metadata["Name"].lower().replace("_", "-"): m.version for m in metadata.distributions()
    }
    return {"Python": platform.python_version()} | {name: found.get(name) for name in packages}
