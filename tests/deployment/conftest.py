"""A git clone with a classifier of a few bytes, its images, and podman to run them."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from deployment.proxy import SLOTS
from signs.inference import predictions
from signs.inference.classifier import Classifier
from signs.paths import CLASSIFIER
from tests.conftest import Server, copy_service, photo
from tests.harness import free_ports

ROOT = Path(__file__).parents[2]
run = functools.partial(subprocess.run, capture_output=True, text=True, check=False)


def at(address: str) -> Server:
    """A service that this process did not start, to ask it."""
    return Server(address, None, Path(), Path())  # type: ignore[arg-type]


def podman(*arguments: str, check: bool = True) -> str:
    done = run(["podman", *arguments], timeout=120)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def end_job(cookie: str) -> None:
    """End each process whose environment has the cookie, as Jenkins does after a node's block."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("JENKINS_NODE_COOKIE") == cookie:
                process.kill()
                process.wait(5)


@dataclass
class Clone:
    """A clone of the repository, and what it deploys on this machine."""

    folder: Path
    port: int  # the stable one of its deployments
    name: str  # prefix of its containers' names
    environment: dict[str, str]  # for commands in the clone
    versions: list[str] = field(default_factory=list)  # of the built images, oldest first

    @property
    def state(self) -> Path:
        return Path(self.environment["SIGNS_STATE"])

    def _make(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        # The first image of a machine takes minutes.
        return run(["make", *arguments], cwd=self.folder, env=self.environment, timeout=550)

    def succeed(self, *arguments: str) -> str:
        done = self._make(*arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def fail(self, *arguments: str) -> str:
        """The error, which is a sentence for a person."""
        done = self._make(*arguments)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("ERROR: "), done.stderr
        return done.stderr

    def git(self, *arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=self.folder, text=True).strip()

    def commit(self) -> str:
        self.git("add", ".")
        self.git("commit", "--allow-empty", "--quiet", "--message", "Another one")
        return self.git("rev-parse", "HEAD")

    def packed(self) -> dict[str, str]:
        lines = (self.folder / "build/build.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def remove(self) -> None:
        """Remove what its deployments left on this machine."""
        if (self.state / "haproxy.pid").exists():
            os.kill(int((self.state / "haproxy.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(self.state, ignore_errors=True)
        if self.versions:
            for slot in (*SLOTS, "smoke"):
                podman("rm", "--force", f"{self.name}-{slot}", check=False)
                podman("volume", "rm", "--force", f"{self.name}-{slot}", check=False)
            images = [f"traffic-signs:{version}" for version in self.versions]
            podman("image", "rm", "--force", *images, check=False)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    folder = copy_service(tmp_path_factory.mktemp("clone") / "clone")
    shutil.copy(ROOT / "Makefile", folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "deployment", folder / "deployment", ignore=ignored)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / ".gitignore").write_text((ROOT / ".gitignore").read_text() + "/.venv\n")
    # Files that a real clone has and that must not be packed.
    for name in ("data/signs/photo.png", "models/model.keras"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not packed")
    port, blue, green = free_ports(3)
    name = f"signs-test-{port}"
    text = (ROOT / "deployment/values.toml").read_text()
    values = {"port": port, "blue_port": blue, "green_port": green, "workers": 1}
    for key, value in (values | {"name": f'"{name}"'}).items():
        text = re.sub(rf'(?m)^{key} = [\w"-]+', f"{key} = {value}", text)
    (folder / "deployment/values.toml").write_text(text)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHON")}
    environment |= {
        "BENTOML_HOME": str(folder.parent / "home"),
        "ENGINE": "podman",
        # Not below the clone: a UNIX socket's path has at most 107 characters.
        "SIGNS_STATE": str(Path("/tmp") / name),
    }
    clone = Clone(folder, port, name, environment)
    clone.git("init", "--quiet")
    for setting in ("user.name=T", "user.email=t@localhost", "commit.gpgsign=false"):
        clone.git("config", *setting.split("="))
    clone.commit()
    yield clone
    clone.remove()


@pytest.fixture(scope="session")
def build_image(clone: Clone) -> Callable[[], str]:
    """Builds the clone's present commit as an image, and says what `make image` printed."""
    base = ["podman", "run", "--rm", "--pull=never", "python:3.11-slim", "python", "-c", ""]
    if shutil.which("podman") is None or subprocess.run(base, capture_output=True).returncode:
        pytest.skip("podman does not run python:3.11-slim here; .ci/containers.sh sets it up")

    def build() -> str:
        printed = clone.succeed("image")
        clone.versions.append(clone.packed()["version"])
        return printed

    return build


@pytest.fixture(scope="session")
def smoke_photos(
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """As `make bento` writes them where there are test photos."""
    classifier = Classifier(copy_service(tmp_path_factory.mktemp("c") / "c") / CLASSIFIER)
    folder = tmp_path_factory.mktemp("smoke")
    photos = []
    for number, color in enumerate(("Red", "Green", "Blue")):
        content = photo(color)
        (folder / f"{number}.png").write_bytes(content)
        (prediction,) = predictions.predict_photos(classifier, [content])
        photos.append(prediction | {"photo": f"{number}.png"})
    text = json.dumps({"model": classifier.metadata.version, "photos": photos})
    (folder / "predictions.json").write_text(text)
    return folder
