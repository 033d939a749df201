"""Brings an image into service on this host without losing a request: blue-green deployment.

    make deploy                       the image that `make image` built
    make deploy VERSION=v1.2.0        the same, but only if it was built from that version's tag
    make rollback                     the version that was in service before
    make deploy ARGS=status           says which version is in service

There are two slots for containers, blue and green. The new container starts in the free one. When
it is ready and names the photos of build/smoke as expected, HAProxy sends new requests to it. The
old container answers the requests that it has and stops. If a deployment fails, the previous
version keeps answering. HAProxy's files and each slot's photos are in the folder SIGNS_STATE, by
default ~/.local/state/traffic-signs.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from deployment import smoke
from deployment.container import Engine, Values, built, read_values, run_command
from deployment.proxy import Proxy
from signs.commands import git
from signs.errors import UserError

TAG_PREFIX = "classifier@"  # of a version of the model, as `make release` tags it


def deploy() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Bring an image into service on this host.")
    actions = ("deploy", "rollback", "status")
    parser.add_argument("action", nargs="?", default="deploy", choices=actions)
    parser.add_argument("--version", help="refuse an image that was not built from this tag")
    arguments = parser.parse_args()
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    folder = Path(os.environ.get("SIGNS_STATE") or Path(base) / "traffic-signs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    host = Host(read_values(), folder)
    if arguments.action == "status":
        print(host.status())
        return
    with _only_one(folder):
        if arguments.action == "rollback":
            host.rollback()
        else:
            host.deploy(arguments.version)


class Host:
    """This machine's two slots for containers, and the proxy in front of them.

    Raises UserError if no container engine runs here or HAProxy is not installed.
    """

    def __init__(self, values: Values, folder: Path) -> None:
        self.values, self.folder = values, folder
        self.engine = Engine()
        self.proxy = Proxy(values, folder)

    def deploy(self, version: str | None) -> None:
        """Start the image that was built in the free slot and switch to it.

        Raises UserError if the image is not of `version` or does not answer as it should.
        """
        packed = built()
        if version is not None:
            _check_tag(version, packed["revision"])
        active = self.proxy.active()
        slot = "green" if active == "blue" else "blue"
        image = f"{self.values.image}:{packed['version']}"
        print(f"Starting {image} as {slot} ...", flush=True)
        self.engine.start(self._name(slot), image, self._port(slot), self.values)
        # A rollback to this version will need them.
        shutil.rmtree(self.folder / slot, ignore_errors=True)
        if smoke.PHOTOS.is_dir():
            shutil.copytree(smoke.PHOTOS, self.folder / slot)
        self._switch(slot, active)

    def rollback(self) -> None:
        """Start the container of the previous version again and switch to it.

        Raises UserError if there is none or it does not answer as it should.
        """
        active = self.proxy.active()
        slot = "green" if active == "blue" else "blue"
        version = self.engine.version(self._name(slot))
        if active is None or not version:
            raise UserError("There is no earlier deployment on this host to go back to.")
        print(f"Going back to {version} ({slot}) ...", flush=True)
        self.engine("start", self._name(slot))
        self._switch(slot, active)
        # Another rollback must not bring the withdrawn version back.
        self.engine.remove(self._name(active))

    def _switch(self, slot: str, active: str | None) -> None:
        """Check the container in `slot`; let it answer instead of the one in `active`."""
        name, photos = self._name(slot), self.folder / slot
        url = f"http://127.0.0.1:{self._port(slot)}"
        try:
            seconds = smoke.wait(url, self.values.ready_seconds, lambda: self.engine.runs(name))
            print(f"Ready after {seconds:.1f} s.", flush=True)
            smoke.check(url, photos)
            self.proxy.switch(slot)
            smoke.check(self.values.url, photos)
        except UserError as error:
            if active:
                self.proxy.switch(active)
            still = f"{active} still answers" if active else "nothing answers"
            said = f"Not deployed; {still}. The container's last lines:\n{self.engine.logs(name)}"
            self.engine.remove(name)
            raise UserError(f"{error} {said}") from error
        if active:
            print(f"Switched. Waiting for the requests that {active} has ...", flush=True)
            self.proxy.drain(active, self.values.drain_seconds)
            if self.engine.runs(self._name(active)):
                self.engine("stop", "-t", str(self.values.stop_seconds), self._name(active))
        print(self.status())

    def status(self) -> str:
        """Which version is in service, as one line for a person."""
        slot = self.proxy.active()
        if slot is None:
            return "Nothing is deployed on this host."
        version = self.engine.version(self._name(slot)) or "a container that is gone"
        return f"{slot} answers on {self.values.url}: {version}."

    def _name(self, slot: str) -> str:
        return f"{self.values.name}-{slot}"

    def _port(self, slot: str) -> int:
        return self.values.blue_port if slot == "blue" else self.values.green_port


def _check_tag(version: str, revision: str) -> None:
    tag = TAG_PREFIX + version.removeprefix(TAG_PREFIX)
    commit = git("rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}", check=False)
    if not commit:
        raise UserError(f"There is no tag {tag}. `git fetch --tags` gets those of `make release`.")
    if commit != revision:
        raise UserError(
            f"{tag} is commit {commit[:10]}, but build/ holds {revision[:10]}. "
            f"Run: git checkout {tag}, dvc pull, make image."
        )


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Allow one deployment at a time."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("Another deployment is under way on this host.") from error
        yield


if __name__ == "__main__":
    run_command(deploy)
