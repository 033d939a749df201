"""`make bento` and `make image`, and the image on a host that allows little."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from deployment import smoke
from tests.conftest import Server, photo
from tests.deployment.conftest import ROOT, Clone, at, podman
from tests.harness import free_ports

# The first test installs the packages if they are in no layer yet, which takes two minutes.
pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

# Of which 409 MB are the locked packages; the stand-in for the base has 151 MB.
MAX_MB = 620


@contextlib.contextmanager
def started(image: str, *options: str) -> Iterator[tuple[str, Server]]:
    """The image on a host that allows no writing but to the memory of /tmp: its name and it."""
    (port,) = free_ports(1)
    name, service = f"signs-{port}", at(f"http://127.0.0.1:{port}")
    # On the host's network, because containers may have no network of their own here.
    podman(
        *("run", "--detach", "--name", name, "--network", "host", "--env", f"BENTOML_PORT={port}"),
        *("--env", "BENTOML_HOST=127.0.0.1", "--env", "SIGNS_WORKERS=1"),
        *("--env", "http_proxy=http://127.0.0.1:1"),  # nobody listens; health is asked directly
        *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp", "--cap-drop", "all"),
        *(*options, image),
    )
    try:
        smoke.wait(service.address, 60, lambda: True)
        yield name, service
    finally:
        podman("rm", "--force", name)


@pytest.fixture(scope="module")
def image(clone: Clone, build_image: Callable[[], str]) -> tuple[str, str]:
    """Its name, and what `make image` printed."""
    printed = build_image()
    return f"traffic-signs:{clone.versions[-1]}", printed


@pytest.fixture(scope="module")
def container(image: tuple[str, str]) -> Iterator[tuple[str, Server]]:
    with started(image[0]) as container:
        yield container


def test_bento_names_model_code_and_data_and_holds_what_is_listed(clone: Clone) -> None:
    clone.succeed("bento")
    model = json.loads((clone.folder / "models/classifier/classifier.json").read_text())["version"]
    commit = clone.git("rev-parse", "HEAD")
    version = f"{model}-{commit[:10]}"
    assert clone.packed() == {"version": version, "revision": commit, "data": "d1f"}
    bento = yaml.safe_load((clone.folder / "build/bento/bento.yaml").read_text())
    assert bento["version"] == version
    origin = {"fingerprint": "c0ffee", "dataset": "colors", "data": "d1f"}
    assert bento["labels"] == origin | {"model": model}
    packed = clone.folder / "build/bento/src"
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    listed = {Path(n) for n in yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]}
    inside = [path for name in listed for path in (clone.folder / name).rglob("*")]
    listed |= {path.relative_to(clone.folder) for path in inside}
    expected = {path.as_posix() for path in listed if (clone.folder / path).is_file()}
    assert {"models/classifier/model.onnx", "signs/serving/page/page.js"} <= expected
    assert files == expected | {"bentofile.yaml"}
    locked = "requirements/service.txt"
    assert (packed / locked).read_bytes() == (ROOT / locked).read_bytes()


def test_version_shows_changes_that_are_not_committed(clone: Clone) -> None:
    with (clone.folder / "service.py").open("a") as service:
        service.write("\n")
    try:
        assert f"{clone.git('rev-parse', 'HEAD')[:10]}-dirty" in clone.succeed("bento")
    finally:
        clone.git("checkout", "service.py")


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


def test_predicts_with_a_read_only_root(container: tuple[str, Server]) -> None:
    name, service = container
    prediction = service.send(photo("Blue")).body
    assert [prediction[key] for key in ("prediction", "name", "known")] == [20, "Blue", True]
    for path in ("/demo", "/docs.json", "/metrics"):
        assert service.ask(path).status == 200
    service.send(photo("Red"))
    log = podman("logs", name)
    assert "Traceback" not in log
    # There is no volume for the log of predictions, which is said once.
    assert log.count("Predictions are not logged") == 1


def test_is_healthy_and_runs_without_rights_and_tools(container: tuple[str, Server]) -> None:
    name, _ = container
    podman("healthcheck", "run", name)
    assert podman("exec", name, "id", "-u") == "10001"
    script = "touch /file /bento/file /packages/file; command -v gcc cc make uv; true"
    assert podman("exec", name, "sh", "-c", script) == ""
    script = "from importlib.util import find_spec as f; print(f('tensorflow'), f('keras'))"
    assert podman("exec", name, "python", "-c", script) == "None None"


def test_image_describes_itself(image: tuple[str, str], clone: Clone) -> None:
    name, printed = image
    (content,) = json.loads(podman("image", "inspect", name))
    labels, packed = content["Config"]["Labels"], clone.packed()
    assert name == f"traffic-signs:{packed['version']}"
    for key, value in (packed | {"title": "traffic-signs"}).items():
        assert labels["signs.data" if key == "data" else f"org.opencontainers.image.{key}"] == value
    assert labels["org.opencontainers.image.description"]
    assert content["User"] == "10001:10001"
    assert "3000/tcp" in content["Config"]["ExposedPorts"]
    assert content["Config"]["StopSignal"] == "SIGTERM"
    assert content["Size"] < MAX_MB * 1e6
    said, _, command = printed.splitlines()[-3:]
    assert f"The image {name}, {content['Size'] / 1e6:.0f} MB" in said
    options = "--read-only --tmpfs /tmp --publish 127.0.0.1:3000:3000"
    assert command.strip() == f"podman run --rm {options} {name}"


def test_logs_predictions_to_a_volume_and_ends_on_sigterm(image: tuple[str, str]) -> None:
    volume = f"signs-test-{os.getpid()}"
    try:
        with started(image[0], "--volume", f"{volume}:/monitoring") as (name, service):
            service.send(photo("Red"))
            log = podman("exec", name, "sh", "-c", "cat /monitoring/predictions/data/*.log")
            assert '"Red"' in log
            begun = time.monotonic()
            podman("kill", "--signal", "TERM", name)
            assert podman("wait", name) == "0"
            assert time.monotonic() - begun < 10
    finally:
        podman("volume", "rm", "--force", volume)
