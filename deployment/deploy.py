"""One image after another behind one port, without a request lost: blue-green on one host.

    make deploy                       what `make image` built
    make deploy VERSION=v1.2.0        the same, if it is of the commit with that version's tag
    make rollback                     the one before
    make deploy ARGS=status           what answers now

The new container starts beside the old one. Once it is ready and names the photos of build/smoke
right, HAProxy sends new requests there; the old one answers what it has begun and stops. What
fails on the way leaves the old one answering. What must be remembered is in the folder that
SIGNS_STATE names; by default it is ~/.local/state/traffic-signs.
"""

import argparse
import contextlib
import csv
import fcntl
import json
import os
import shutil
import signal
import socket
import string
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployment import smoke
from deployment.container import DeployError, Engine, Values, built, exit_with_sentence, values

SLOTS = ("blue", "green")
TEMPLATE = Path(__file__).with_name("haproxy.cfg")
# Of a version of the model, as `make release` sets them.
TAG = "classifier@{}"


def deploy() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Bring an image into service.")
    parser.add_argument(
        "action", nargs="?", default="deploy", choices=("deploy", "rollback", "status")
    )
    parser.add_argument("--version", help="refuse what is not of this version's tag")
    arguments = parser.parse_args()
    host = Host(values(), _state_folder())
    if arguments.action == "status":
        print(host.status())
        return
    with _alone(host.folder):
        if arguments.action == "rollback":
            host.rollback()
        else:
            host.deploy(arguments.version)


@dataclass
class Host:
    """The two places for containers on this machine, and the proxy before them."""

    values: Values
    folder: Path

    def __post_init__(self) -> None:
        self.engine = Engine()
        self.proxy = Proxy(self.values, self.folder)

    def deploy(self, version: str | None) -> None:
        """Start what was built in the free place and switch to it."""
        about = built()
        if version is not None:
            _check_tag(version, about)
        self.proxy.program()
        active = self.active()
        slot = "green" if active == "blue" else "blue"
        image = f"{self.values.image}:{about['version']}"
        print(f"Starting {image} as {slot} ...", flush=True)
        photos = self.folder / slot
        shutil.rmtree(photos, ignore_errors=True)
        if smoke.PHOTOS.is_dir():
            shutil.copytree(smoke.PHOTOS, photos)
        # What is in that place cannot be gone back to any more.
        self._remember({slot: {"version": about["version"], "revision": about["revision"]}})
        self.engine.start(self._name(slot), image, self._port(slot), self.values)
        self._switch(slot, active)

    def rollback(self) -> None:
        """Start the container before the present one again and switch to it."""
        active = self.active()
        before = self._recall()
        slots = [slot for slot in SLOTS if slot != active and "version" in before.get(slot, {})]
        if active is None or not slots:
            raise DeployError("There is no earlier deployment on this host to go back to.")
        (slot,) = slots
        print(f"Going back to {before[slot]['version']} ({slot}) ...", flush=True)
        self.engine("start", self._name(slot))
        self._switch(slot, active)
        # Going back once more must not bring what was withdrawn.
        self.engine.remove(self._name(active))
        self._remember({active: {}})

    def _switch(self, slot: str, active: str | None) -> None:
        """Try the container in `slot`; let it answer instead of that in `active`."""
        name, url = self._name(slot), f"http://127.0.0.1:{self._port(slot)}"
        try:
            seconds = smoke.wait(url, self.values.ready_seconds, lambda: self.engine.runs(name))
            print(f"Ready after {seconds:.1f} s.", flush=True)
            smoke.check(url, self.folder / slot)
        except DeployError as error:
            raise self._failed(slot, active, error) from error
        try:
            self.proxy.switch(slot)
            smoke.check(self.values.url, self.folder / slot)
        except DeployError as error:
            if active:
                self.proxy.switch(active)
            raise self._failed(slot, active, error) from error
        if active:
            print(f"Switched; waiting for what {active} has begun ...", flush=True)
            self.proxy.drained(active, self.values.drain_seconds)
            if self.engine.runs(self._name(active)):
                self.engine("stop", "--time", str(self.values.stop_seconds), self._name(active))
        print(self.status())

    def _failed(self, slot: str, active: str | None, error: DeployError) -> DeployError:
        said = self.engine.logs(self._name(slot))
        self.engine.remove(self._name(slot))
        self._remember({slot: {}})
        still = f"{active} still answers" if active else "nothing answers"
        return DeployError(f"{error} Not deployed; {still}. The container's last words:\n{said}")

    def active(self) -> str | None:
        """Which place answers; the proxy knows best, even after a deployment that was killed."""
        ready = self.proxy.ready()
        return ready[0] if ready else None

    def status(self) -> str:
        """One line for a person."""
        active = self.active()
        if active is None:
            return "Nothing is deployed on this host."
        about = self._recall().get(active, {})
        return (
            f"{active} answers on {self.values.url}: {about.get('version')} "
            f"(commit {about.get('revision', '')[:10]})."
        )

    def _name(self, slot: str) -> str:
        return f"{self.values.name}-{slot}"

    def _port(self, slot: str) -> int:
        return self.values.blue_port if slot == "blue" else self.values.green_port

    def _recall(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.folder / "slots.json").read_bytes())
            return found
        return {}

    def _remember(self, changes: dict[str, Any]) -> None:
        text = json.dumps(self._recall() | changes, indent=2) + "\n"
        _write(self.folder / "slots.json", text)


@dataclass
class Proxy:
    """The HAProxy of this host; started when first needed, never reloaded."""

    values: Values
    folder: Path

    def switch(self, slot: str) -> None:
        """From now on new requests go to `slot`."""
        # For the next start, such as after the machine's.
        self._configure(slot)
        if not self._runs():
            self._start()
            return
        (other,) = (name for name in SLOTS if name != slot)
        # In one line, so that there is no moment without a server.
        self._tell(f"set server service/{slot} state ready; set server service/{other} state drain")

    def ready(self) -> list[str]:
        """The places that get new requests."""
        if not self._runs():
            return []
        rows = self._servers()
        return [slot for slot in SLOTS if rows[slot]["status"].startswith(("UP", "no check"))]

    def drained(self, slot: str, seconds: float) -> None:
        """Wait until `slot` has answered all it began, at most so long."""
        until = time.monotonic() + seconds
        while int(self._servers()[slot]["scur"]) and time.monotonic() < until:
            time.sleep(0.1)

    def _configure(self, slot: str) -> None:
        about = vars(self.values) | {"folder": self.folder}
        about |= {name: "" if name == slot else "disabled" for name in SLOTS}
        text = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(about)
        _write(self.folder / "haproxy.cfg", text)

    def program(self) -> str:
        """Where HAProxy is.

        Raises:
            DeployError: nowhere.
        """
        found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        if found is None:
            raise DeployError(
                "HAProxy is not installed (on Debian and Ubuntu: apt install haproxy)."
            )
        return found

    def _start(self) -> None:
        command = [self.program(), "-D", "-f", str(self.folder / "haproxy.cfg")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeployError(f"HAProxy does not start: {done.stderr.strip()}")

    def _runs(self) -> bool:
        try:
            self._tell("show info")
        except OSError:
            return False
        return True

    def _servers(self) -> dict[str, dict[str, str]]:
        lines = self._tell("show stat").removeprefix("# ").splitlines()
        return {row["svname"]: row for row in csv.DictReader(lines) if row["pxname"] == "service"}

    def _tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "haproxy.sock"))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def _check_tag(version: str, about: dict[str, str]) -> None:
    tag = TAG.format(version.removeprefix(TAG.format("")))
    command = ["git", "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeployError(
            f"There is no tag {tag}: `make release` makes it, `git fetch --tags` gets it."
        )
    if (commit := done.stdout.strip()) != about["revision"]:
        raise DeployError(
            f"{tag} is commit {commit[:10]}, but build/ holds {about['revision'][:10]}: "
            f"git checkout {tag}, dvc pull, make image."
        )


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    folder = Path(os.environ.get("SIGNS_STATE") or Path(base) / "traffic-signs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One deployment at a time; a kill in the middle leaves what answered answering."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DeployError("Another deployment is under way on this host.") from error
        yield


def _write(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    exit_with_sentence(deploy)
