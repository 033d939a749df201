"""What all tests share, and a real `bentoml serve` with a classifier of a few bytes."""

import io
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from signs.paths import CLASSIFIER
from tests.harness import BIN, ROOT, free_port, wait_until

# A proxy that the environment names is not meant for this machine's own servers.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Each class is a plain colour. A nearly grey photo fits none of them and is unknown.
CLASSES = {3: "Red", 14: "Green", 20: "Blue"}
COLORS = {"Red": (255, 0, 0), "Green": (0, 255, 0), "Blue": (0, 0, 255), "Grey": (90, 90, 90)}

# Variables of the `make` that runs the tests must not reach the `make` that a test runs.
for name in ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(name, None)


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """A folder's tests share a process, so that its session fixtures are made once.

    tests/pipeline takes half of the time, so its files are spread over the processes.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.rpartition("/")[0]
        return nodeid.partition("::")[0] if folder == "tests/pipeline" else folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    """The schedule of `pytest -n`."""
    return ByFolder(config, log)


def tiny_model() -> bytes:
    """Logits: how much more than the others a colour channel has, on average, / 8."""
    from tests.inference import small  # imports onnx, which is slow and which few tests need

    weights = np.broadcast_to((np.eye(3) * 3 - 1) / (16 * 16**2), (16, 16, 3, 3))
    return small.model(weights, (0, 0, 0))


def write_classifier(folder: Path) -> None:
    """A classifier that tells red, green and blue apart."""
    from signs.inference import classifier
    from signs.params import ImageSettings

    classifier.write(
        folder,
        model=tiny_model(),
        class_ids=list(CLASSES),
        names=list(CLASSES.values()),
        images=ImageSettings(size=16, color="rgb", contrast="none", margin=0.0),
        temperature=1.0,
        threshold=0.9,
        energy_threshold=2.0,
        provenance={
            "fingerprint": "c0ffee",
            "dataset": "colors",
            "data": "d1f",
            "validation": {"images": 3, "accuracy": 1.0},
        },
    )


def copy_service(folder: Path) -> Path:
    """The files of this repository that serving needs, with that classifier."""
    folder.mkdir(parents=True)
    for name in ("service.py", "bentofile.yaml", "requirements", "containers", "signs"):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "templates")
            shutil.copytree(source, folder / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, folder / name)
    write_classifier(folder / CLASSIFIER)
    return folder


@dataclass
class Reply:
    """Status, decoded body and headers (lower case) of a response."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def error(self) -> str:
        """The message of an error response."""
        assert list(self.body) == ["error"], self
        return str(self.body["error"])


@dataclass
class Server:
    """A running service: where it listens, `bentoml serve`, its folder, what it prints."""

    address: str
    process: "subprocess.Popen[bytes]"
    folder: Path
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def ask(
        self, path: str, body: bytes | None = None, method: str | None = None, **headers: str
    ) -> Reply:
        """The response to one request; `_` in the names of headers stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, body, named, method=method)
        try:
            response = DIRECT.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            content, got = response.read(), response.headers
        if content and got.get("content-type") == "application/json":
            content = json.loads(content)
        return Reply(response.status, content, {key.lower(): value for key, value in got.items()})

    def send(self, body: bytes, path: str = "/predict", kind: str = "image/png") -> Reply:
        """The response to a photo or a form."""
        return self.ask(path, body, Content_Type=kind)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in children if "_bentoml_impl.worker.service" in p.cmdline()]

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start(folder: Path, wait: bool = True, **environment: str) -> Server:
    """`bentoml serve` in a folder made by `copy_service`."""
    port = free_port()
    variables = {k: v for k, v in os.environ.items() if not k.startswith("BENTOML_")}
    variables |= {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / "home"),
        "PYTHONPATH": str(folder),
        "SIGNS_WORKERS": "2",
    }
    command = [str(BIN / "bentoml"), "serve", "service:TrafficSigns", "--host", "127.0.0.1"]
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env=variables | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://127.0.0.1:{port}", process, folder, log)
    ended = lambda: process.poll() is not None  # noqa: E731
    ready = lambda: server.ask("/readyz").status == 200  # noqa: E731
    if wait and (not wait_until(lambda: ended() or ready()) or ended()):
        server.stop()
        pytest.fail(f"the service did not start:\n{log.read_text()}")
    return server


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service that most tests ask; it must answer after each test as it did before."""
    server = start(copy_service(tmp_path_factory.mktemp("service") / "app"))
    yield server
    server.stop()


@pytest.fixture
def server(running: Server) -> str:
    """Its address."""
    return running.address


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts services that a test may break."""
    started: list[Server] = []

    def begin(**environment: str) -> Server:
        folder = copy_service(tmp_path / f"app{len(started)}")
        started.append(start(folder, **environment))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def photo(color: str = "Green", suffix: str = ".png", side: int = 40) -> bytes:
    """A file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), COLORS[color]).save(file, Image.registered_extensions()[suffix])
    return file.getvalue()
