"""A real `bentoml serve` with a classifier of a few bytes, in a folder of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from signs.inference import classifier
from signs.params import ImageSettings

ROOT = Path(__file__).parents[2]
BENTOML = Path(sys.executable).parent / "bentoml"
START_SECONDS = 60
# Three are a plain colour each; what is nearly grey fits none and is unknown.
CLASS_IDS, NAMES = [3, 14, 20], ["Red", "Green", "Blue"]
COLORS = {"Red": (255, 0, 0), "Green": (0, 255, 0), "Blue": (0, 0, 255)}


def tiny_model(size: int = 16) -> bytes:
    """Logits: how much more than the others a colour channel has, on average, / 8."""
    weights = ((np.eye(3) * 3 - 1) / 16).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def write_classifier(folder: Path) -> None:
    """One that tells red, green and blue apart."""
    classifier.write(
        folder,
        model=tiny_model(),
        class_ids=CLASS_IDS,
        names=NAMES,
        settings=ImageSettings(size=16, color="rgb", contrast="none", margin=0.0),
        temperature=1.0,
        threshold=0.9,
        energy_threshold=2.0,
        provenance={
            "commit": "c0ffee",
            "dataset": "colors",
            "data": "d1f",
            "validation": {"images": 3, "accuracy": 1.0},
        },
    )


def copy_service(folder: Path) -> Path:
    """What serving needs of this repository, with that classifier."""
    folder.mkdir(parents=True)
    for name in ("service.py", "bentofile.yaml", "requirements", "containers", "signs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "templates")
            )
        elif source.exists():
            shutil.copy(source, folder / name)
    write_classifier(folder / classifier.FOLDER)
    return folder


@dataclass
class Server:
    """A running service.

    Attributes:
        address: such as http://127.0.0.1:34567.
        process: `bentoml serve`.
        folder: where it runs.
        log: what it prints.
    """

    address: str
    process: "subprocess.Popen[bytes]"
    folder: Path
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in children if "_bentoml_impl.worker.service" in p.cmdline()]

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if what():
                return True
        time.sleep(0.2)
    return False


def start(folder: Path, wait: bool = True, **environment: str) -> Server:
    """`bentoml serve` in a folder made by `copy_service`."""
    address, log = f"http://127.0.0.1:{free_port()}", folder / "serve.log"
    variables = {k: v for k, v in os.environ.items() if not k.startswith("BENTOML_")}
    variables |= {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / "home"),
        "PYTHONPATH": str(folder),
        "SIGNS_WORKERS": "2",
    }
    command = [str(BENTOML), "serve", "service:TrafficSigns", "--host", "127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", address.rpartition(":")[2]],
            cwd=folder,
            env=variables | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(address, process, folder, log)

    def ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the service ended with {process.returncode}:\n{log.read_text()}")
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)

    if wait and not wait_until(ready, START_SECONDS):
        server.stop()
        pytest.fail(f"the service did not start:\n{log.read_text()}")
    return server


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service that most tests ask."""
    server = start(copy_service(tmp_path_factory.mktemp("service") / "app"))
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.fixture
def server(running: Server) -> str:
    """Its address; it must answer after each test as it did before."""
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
        if server.process.poll() is None:
            server.stop()


def photo(color: str = "Green", suffix: str = ".png", side: int = 40) -> bytes:
    """A file of one colour."""
    image = np.full((side, side, 3), COLORS[color][::-1], np.uint8)
    return bytes(cv2.imencode(suffix, image)[1])


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., bytes]:
    return photo


@pytest.fixture(scope="session")
def service_copy() -> Callable[[Path], Path]:
    return copy_service


@pytest.fixture(scope="session")
def begin_server() -> Callable[..., Server]:
    return start
