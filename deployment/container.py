"""The service's image as a running container, and what build/ and values.toml say of it."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

BUILD = Path("build")
VALUES = Path(__file__).with_name("values.toml")
ENGINES = ("docker", "podman")
# What values are at most: a number, or another value.
MOST = {
    **dict.fromkeys(("port", "blue_port", "green_port", "container_port"), 65535),
    "cpu_request": "cpus",
    "memory_request_mb": "memory_mb",
    "replicas_min": "replicas_max",
    "cpu_percent": 100,
}


class DeployError(Exception):
    """What went wrong, as one sentence for a person."""


@dataclass(frozen=True)
class Values:
    """The content of values.toml, where each has its unit."""

    name: str
    image: str
    address: str
    port: int
    blue_port: int
    green_port: int
    workers: int
    cpus: float
    memory_mb: int
    container_port: int
    cpu_request: float
    memory_request_mb: int
    replicas_min: int
    replicas_max: int
    cpu_percent: int
    endpoint_seconds: int
    ready_seconds: int
    drain_seconds: int
    stop_seconds: int

    @property
    def url(self) -> str:
        """Where clients, and this machine, find the service."""
        address = "127.0.0.1" if self.address == "0.0.0.0" else self.address
        return f"http://{address}:{self.port}"


def values(path: Path = VALUES) -> Values:
    """Read values.toml.

    Raises:
        DeployError: a key is unknown, missing, of another type or out of range.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DeployError(f"{path} cannot be read: {error}") from error
    kinds = {field.name: field.type for field in fields(Values)}
    if unknown := sorted(found.keys() - kinds.keys()):
        raise DeployError(f"{path} has unknown keys: {', '.join(unknown)}; allowed: {[*kinds]}.")
    if missing := [key for key in kinds if key not in found]:
        raise DeployError(f"{path} lacks {', '.join(missing)}.")
    for key, value in found.items():
        allowed = (int, float) if kinds[key] is float else kinds[key]
        if isinstance(value, bool) or not isinstance(value, allowed):  # type: ignore[arg-type]
            raise DeployError(f"{path}: {key} is {value!r}, but must be a {kinds[key].__name__}.")  # type: ignore[union-attr]
        if not isinstance(value, str) and value <= 0:
            raise DeployError(f"{path}: {key} is {value!r}, but must be above 0.")
    for key, most in MOST.items():
        limit = found[most] if isinstance(most, str) else most
        if found[key] > limit:
            name = f"{most}, " * isinstance(most, str)
            raise DeployError(f"{path}: {key} is {found[key]}, but at most {name}{limit}.")
    return Values(**found)


def built() -> dict[str, str]:
    """Version, revision and data of what `make bento` packed.

    Raises:
        DeployError: nothing is packed.
    """
    try:
        lines = (BUILD / "build.env").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DeployError("There is nothing in build/ yet: `make image` fills it.") from error
    return dict(line.split("=", 1) for line in lines)


class Engine:
    """docker or podman: the first that runs, or the one that ENGINE names.

    Raises:
        DeployError: none runs.
    """

    def __init__(self) -> None:
        named = os.environ.get("ENGINE")
        for name in (named,) if named else ENGINES:
            if shutil.which(name) and self._run(name, "info").returncode == 0:
                self.name = name
                return
        raise DeployError(
            f"ENGINE={named} does not run containers here: '{named} info' fails."
            if named
            else "Neither docker nor podman runs here: install or start one."
        )

    def __call__(self, *arguments: str) -> str:
        """What a command prints.

        Raises:
            DeployError: it failed.
        """
        done = self._run(self.name, *arguments)
        if done.returncode:
            raise DeployError(f"{self.name} {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    @staticmethod
    def _run(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def has(self, kind: str, name: str) -> bool:
        """Whether there is an image or a container of that name."""
        return self._run(self.name, kind, "inspect", name).returncode == 0

    def runs(self, name: str) -> bool:
        """Whether that container is running."""
        done = self._run(self.name, "inspect", "--format", "{{.State.Running}}", name)
        return done.stdout.strip() == "true"

    def start(self, name: str, image: str, port: int, about: Values) -> None:
        """Run the image as container `name`, on a port of this host alone."""
        if not self.has("image", image):
            raise DeployError(f"There is no image {image} here: `make image` builds it.")
        self.remove(name)
        self(
            *("run", "--detach", "--name", name, "--restart", "unless-stopped"),
            # Only the proxy beside it can reach it, and no port need be published.
            *("--network", "host", "--env", "BENTOML_HOST=127.0.0.1"),
            *("--env", f"BENTOML_PORT={port}", "--env", f"SIGNS_WORKERS={about.workers}"),
            *("--cpus", f"{about.cpus:g}", "--memory", f"{about.memory_mb}m"),
            *("--read-only", "--tmpfs", "/tmp", "--volume", f"{name}:/monitoring"),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges", image),
        )

    def logs(self, name: str) -> str:
        """The last that the container said."""
        done = self._run(self.name, "logs", "--tail", "5", name)
        return (done.stdout + done.stderr).strip()

    def remove(self, name: str) -> None:
        """End and forget a container, if there is one."""
        self._run(self.name, "rm", "--force", name)


def exit_with_sentence(command: Callable[[], None]) -> None:
    """Run a command; what a person can put right ends it without a traceback, with 1."""
    try:
        command()
    except DeployError as error:
        sys.exit(f"ERROR: {error}")
    except KeyboardInterrupt:
        print("\nStopped. What answered before still does.", file=sys.stderr)
        sys.exit(130)
