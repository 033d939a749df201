"""`make bento` and `make image`, and the image on a host that allows little."""

import contextlib
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.deployment.conftest import ROOT, Clone, Image, free_ports, podman

# The first test installs the packages if they are in no layer yet, which takes two minutes.
pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

# Of which 409 MB are the locked packages; the stand-in for the base has 151 MB.
MAX_MB = 620


@dataclass
class Container:
    """A running container."""

    name: str
    address: str

    def exec(self, *command: str) -> str:
        return podman("exec", self.name, *command)

    def get(self, path: str) -> None:
        urllib.request.urlopen(f"{self.address}/{path}", timeout=20).close()

    def predict(self, photo: bytes) -> Any:
        kind = {"Content-Type": "image/png"}
        request = urllib.request.Request(f"{self.address}/predict", photo, kind)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.loads(response.read())


@contextlib.contextmanager
def started(image: Image, *options: str) -> Iterator[Container]:
    """The image on a host that allows no writing but to the memory of /tmp."""
    (port,) = free_ports(1)
    name = f"signs-{port}"
    # On the host's network, because containers may have no network of their own here.
    podman(
        *("run", "--detach", "--name", name, "--network", "host", "--env", f"BENTOML_PORT={port}"),
        *("--env", "BENTOML_HOST=127.0.0.1", "--env", "SIGNS_WORKERS=1"),
        *("--env", "http_proxy=http://127.0.0.1:1"),  # nobody listens; health is asked directly
        *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp", "--cap-drop", "all"),
        *(*options, image.name),
    )
    container = Container(name, f"http://127.0.0.1:{port}")
    try:
        for _ in range(150):
            with contextlib.suppress(OSError):
                container.get("readyz")
                break
            time.sleep(0.2)
        else:
            pytest.fail(podman("logs", name))
        yield container
    finally:
        podman("rm", "--force", name)


@pytest.fixture(scope="module")
def container(image: Image) -> Iterator[Container]:
    with started(image) as container:
        yield container


def classifier_version(clone: Clone) -> Any:
    return json.loads((clone.folder / "models/classifier/classifier.json").read_text())["version"]


def test_bento_names_model_code_and_data_and_holds_what_is_listed(clone: Clone) -> None:
    clone.succeed("bento")
    version = f"{classifier_version(clone)}-{clone.git('rev-parse', 'HEAD')[:10]}"
    assert clone.packed() | {"version": version, "data": "d1f"} == clone.packed()
    bento = yaml.safe_load((clone.folder / "build/bento/bento.yaml").read_text())
    assert bento["version"] == version
    assert bento["labels"] == {
        "model": classifier_version(clone),
        "commit": "c0ffee",
        "dataset": "colors",
        "data": "d1f",
    }
    packed = clone.folder / "build/bento/src"
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    listed = set(yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"])
    classifier = {f"models/classifier/{name}" for name in ("classifier.json", "model.onnx")}
    assert files == listed - {"models/classifier/"} | classifier | {"bentofile.yaml"}
    locked = "requirements/service.txt"
    assert (packed / locked).read_bytes() == (ROOT / locked).read_bytes()


def test_version_shows_changes_that_are_not_committed(clone: Clone) -> None:
    service = clone.folder / "service.py"
    committed = service.read_text()
    service.write_text(committed + "\n")
    try:
        assert f"{clone.git('rev-parse', 'HEAD')[:10]}-dirty" in clone.succeed("bento")
    finally:
        service.write_text(committed)


def test_says_in_one_sentence_what_is_missing(clone: Clone) -> None:
    folder = clone.folder / "models/classifier"
    kept = shutil.copytree(folder, folder.with_name("kept"))
    try:
        assert "ENGINE=nothing" in clone.fail("containerize", "ENGINE=nothing")
        (folder / "model.onnx").write_bytes((kept / "model.onnx").read_bytes()[:-9])
        assert "truncated" in clone.fail("bento")
        shutil.rmtree(folder)
        assert "'make' trains one" in clone.fail("bento")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)


def test_predicts_with_a_read_only_root(
    container: Container, make_photo: Callable[..., bytes]
) -> None:
    prediction = container.predict(make_photo("Blue"))
    assert [prediction[key] for key in ("prediction", "name", "known")] == [20, "Blue", True]
    for path in ("demo", "docs.json", "metrics"):
        container.get(path)
    container.predict(make_photo("Red"))
    log = podman("logs", container.name)
    assert "Traceback" not in log
    # There is no volume for the log of predictions, which is said once.
    assert log.count("Predictions are not logged") == 1


def test_is_healthy_and_runs_without_rights_and_tools(container: Container) -> None:
    podman("healthcheck", "run", container.name)
    assert container.exec("id", "-u") == "10001"
    script = "touch /file /bento/file /packages/file; command -v gcc cc make uv; true"
    assert container.exec("sh", "-c", script) == ""
    script = "from importlib.util import find_spec as f; print(f('tensorflow'), f('keras'))"
    assert container.exec("python", "-c", script) == "None None"


def test_image_describes_itself(image: Image, clone: Clone) -> None:
    assert image.version == f"{classifier_version(clone)}-{image.commit[:10]}"
    (content,) = json.loads(podman("image", "inspect", image.name))
    labels = content["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "traffic-signs"
    assert labels["org.opencontainers.image.version"] == image.version
    assert labels["org.opencontainers.image.revision"] == image.commit
    assert labels["org.opencontainers.image.description"]
    assert labels["signs.data"] == "d1f"
    assert content["User"] == "10001:10001"
    assert "3000/tcp" in content["Config"]["ExposedPorts"]
    assert content["Config"]["StopSignal"] == "SIGTERM"
    assert content["Size"] < MAX_MB * 1e6
    said, command = image.printed.splitlines()[-2:]
    assert f"The image {image.name}, {content['Size'] / 1e6:.0f} MB" in said
    options = "--read-only --tmpfs /tmp --publish 127.0.0.1:3000:3000"
    assert command.strip() == f"podman run --rm {options} {image.name}"


def test_logs_predictions_to_a_volume_and_ends_on_sigterm(
    image: Image, make_photo: Callable[..., bytes]
) -> None:
    volume = f"signs-test-{os.getpid()}"
    try:
        with started(image, "--volume", f"{volume}:/monitoring") as container:
            container.predict(make_photo("Red"))
            log = container.exec("sh", "-c", "cat /monitoring/predictions/data/*.log")
            assert '"Red"' in log
            begun = time.monotonic()
            podman("kill", "--signal", "TERM", container.name)
            assert podman("wait", container.name) == "0"
            assert time.monotonic() - begun < 10
    finally:
        podman("volume", "rm", "--force", volume)
