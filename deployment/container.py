"""The service's image as a running container, and what values.toml and build/ say about it."""

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from signs.errors import UserError

BUILD = Path("build")
VALUES = Path(__file__).with_name("values.toml")
KINDS = {str: "a text", int: "a whole number", float: "a number"}
# By these, Jenkins (after a node's block, an abort, a freestyle job) and GitHub end processes.
JOB_COOKIES = ("JENKINS_NODE_COOKIE", "JENKINS_SERVER_COOKIE", "BUILD_ID", "RUNNER_TRACKING_ID")


@dataclass(frozen=True)
class Values:
    """The content of values.toml, which explains each value and its unit."""

    name: str
    image: str
    address: str
    port: int
    blue_port: int
    green_port: int
    requests_per_address: int
    workers: int
    cpus: float
    memory_mb: int
    ready_seconds: int
    drain_seconds: int
    stop_seconds: int

    @property
    def url(self) -> str:
        """The stable address of the service, as seen from this machine."""
        address = "127.0.0.1" if self.address == "0.0.0.0" else self.address
        return f"http://{address}:{self.port}"


def read_values(path: Path = VALUES) -> Values:
    """The content of a file like values.toml.

    Raises UserError if a key is unknown, missing, of another type or out of range.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    kinds = {field.name: field.type for field in fields(Values)}
    unknown, missing = content.keys() - kinds.keys(), kinds.keys() - content.keys()
    for problem, keys in (("has unknown keys", unknown), ("lacks keys", missing)):
        if keys:
            named, allowed = ", ".join(sorted(keys)), ", ".join(kinds)
            raise UserError(f"{path} {problem}: {named}. Allowed are {allowed}.")
    for key, value in content.items():
        kind = kinds[key]
        if type(value) is not kind and (type(value), kind) != (int, float):
            raise UserError(f"{path}: {key} is {value!r}, but must be {KINDS[kind]}.")  # type: ignore[index]
        if kind is not str and value <= 0:
            raise UserError(f"{path}: {key} is {value}, but must be above 0.")
        if key.endswith("port") and value > 65535:
            raise UserError(f"{path}: {key} is {value}, but must be at most 65535.")
    return Values(**content)


def built() -> dict[str, str]:
    """Version, revision and data of what `make bento` packed; UserError if nothing is."""
    try:
        lines = (BUILD / "build.env").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError("There is no image in build/: `make image` builds one.") from error
    return dict(line.split("=", 1) for line in lines)


class Engine:
    """docker or podman: the one that ENGINE names, else the first that runs, else UserError."""

    def __init__(self) -> None:
        named = os.environ.get("ENGINE")
        for self.name in (named,) if named else ("docker", "podman"):
            if shutil.which(self.name) and self._run("info").returncode == 0:
                return
        if named:
            raise UserError(f"ENGINE={named} does not run containers here: '{named} info' fails.")
        raise UserError("Neither docker nor podman runs here: install or start one.")

    def __call__(self, *arguments: str) -> str:
        """What a command prints; UserError if it failed."""
        done = self._run(*arguments)
        if done.returncode:
            raise UserError(f"{self.name} {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def runs(self, name: str) -> bool:
        """Whether that container is running."""
        return self._inspect(name, "{{.State.Running}}") == "true"

    def version(self, name: str) -> str:
        """The version of the image of a container; empty if there is no such container."""
        return self._inspect(name, '{{index .Config.Labels "org.opencontainers.image.version"}}')

    def start(self, name: str, image: str, port: int, values: Values) -> None:
        """Run the image as container `name`, in place of one of that name.

        Raises UserError if there is no such image or it does not start.
        """
        if self._run("image", "inspect", image).returncode:
            raise UserError(f"There is no image {image} here: `make image` builds it.")
        self.remove(name)
        self(
            *("run", "--detach", "--name", name, "--restart", "unless-stopped"),
            # Only the proxy on this host can reach it, and no port need be published.
            *("--network", "host", "--env", "BENTOML_HOST=127.0.0.1"),
            *("--env", f"BENTOML_PORT={port}", "--env", f"SIGNS_WORKERS={values.workers}"),
            *("--cpus", f"{values.cpus:g}", "--memory", f"{values.memory_mb}m"),
            *("--read-only", "--tmpfs", "/tmp", "--volume", f"{name}:/monitoring"),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges", image),
        )

    def logs(self, name: str) -> str:
        """The last lines that the container printed."""
        done = self._run("logs", "--tail", "5", name)
        return (done.stdout + done.stderr).strip()

    def remove(self, name: str) -> None:
        """End and delete a container, if there is one."""
        self._run("rm", "--force", name)

    def _inspect(self, name: str, template: str) -> str:
        done = self._run("container", "inspect", "--format", template, name)
        return "" if done.returncode else done.stdout.strip()

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return run(self.name, *arguments)


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a program whose processes, such as HAProxy's, may outlive a CI job."""
    kept = {key: value for key, value in os.environ.items() if key not in JOB_COOKIES}
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=False)


def run_command(command: Callable[[], None]) -> None:
    """Run a command as a program: exit with 1 on a `UserError`, with 130 on Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
    except KeyboardInterrupt:
        print("\nStopped. The version that was in service still is.", file=sys.stderr)
        sys.exit(130)
