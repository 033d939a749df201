"""`make bento` and `make image`, as a user runs them, and the image as a careful host runs it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Where no layer is there yet, the first test waits two minutes for the packages.
pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
# Of which 409 MB are the locked packages; the stand-in for the base has 151 MB.
MOST_MB = 620


@dataclass
class Project:
    """A clone that holds a classifier.

    Attributes:
        folder: the clone.
        commit: its only one.
        environment: variables for what runs there.
        said: what `make image` printed.
    """

    folder: Path
    commit: str
    environment: dict[str, str]
    said: str = ""

    def make(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=280,
        )

    def bento(self) -> dict[str, Any]:
        """What `bentoml get` tells."""
        bentoml = Path(sys.executable).parent / "bentoml"
        command = [bentoml, "get", "traffic_signs:latest", "-o", "json"]
        said: dict[str, Any] = json.loads(
            subprocess.check_output(command, env=self.environment, cwd=self.folder)
        )
        return said


def podman(*arguments: str) -> str:
    result = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def project(
    service_copy: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    folder = service_copy(tmp_path_factory.mktemp("project") / "clone")
    for name in ("Makefile", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    # Things that lie about in a real clone and must not be packed.
    (folder / "data/signs").mkdir(parents=True)
    (folder / "data/signs/photo.png").write_bytes(b"photo")
    (folder / "models/model.keras").write_bytes(b"keras")
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "/.venv\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ENGINE")}
    environment |= {"BENTOML_HOME": str(folder.parent / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    return Project(folder, commit, environment)


@pytest.fixture(scope="module")
def image(project: Project) -> Iterator[str]:
    """`make image`, once."""
    base = ["podman", "run", "--rm", "--pull=never", "python:3.11-slim", "python", "-c", ""]
    if shutil.which("podman") is None or subprocess.run(base, capture_output=True).returncode:
        pytest.skip("podman does not run python:3.11-slim here; .ci/containers.sh sets it up")
    made = project.make("image", "ENGINE=podman")
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    project.said = made.stdout
    name = f"traffic-signs:{project.bento()['version']}"
    yield name
    podman("image", "rm", "--force", name)


@dataclass
class Container:
    """A running container."""

    name: str
    address: str


@contextlib.contextmanager
def started(image: str, *options: str) -> Iterator[Container]:
    """The image as a careful host runs it: nothing can be written but the memory of /tmp."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    name = f"signs-{port}"
    # On the host's network, where containers may have no network of their own.
    podman(
        *("run", "--detach", "--name", name, "--network", "host", "--env", f"BENTOML_PORT={port}"),
        *("--env", "BENTOML_HOST=127.0.0.1", "--env", "SIGNS_WORKERS=1"),
        *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp", "--cap-drop", "all"),
        *(*options, image),
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(150):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/readyz", timeout=5).close()
                break
            time.sleep(0.2)
        else:
            pytest.fail(podman("logs", name))
        yield Container(name, address)
    finally:
        podman("rm", "--force", name)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    with started(image) as found:
        yield found


def predict(container: Container, photo: bytes) -> Any:
    request = urllib.request.Request(
        f"{container.address}/predict", photo, {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def inspect(kind: str, name: str) -> Any:
    return json.loads(podman(kind, "inspect", name))[0]


def test_the_bento_names_its_model_code_and_data_and_holds_no_more(project: Project) -> None:
    made = project.make("bento")
    assert made.returncode == 0, made.stdout + made.stderr
    about = json.loads((project.folder / "models/classifier/classifier.json").read_bytes())
    bento = project.bento()
    assert bento["version"] == f"{about['version']}-{project.commit[:10]}"
    assert bento["labels"] == {
        "model": about["version"],
        "commit": "c0ffee",
        "dataset": "colors",
        "data": "d1f",
    }
    packed = project.folder.parent / "home/bentos/traffic_signs" / bento["version"] / "src"
    assert (packed / "requirements/service.txt").read_bytes() == (
        ROOT / "requirements/service.txt"
    ).read_bytes()
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    # That the image answers shows that nothing is missing.
    assert not [name for name in files if name.startswith(("data", "tests", "stages", "signs/tem"))]
    assert {name for name in files if name.startswith("models")} == {
        "models/classifier/classifier.json",
        "models/classifier/model.onnx",
    }
    assert {
        "signs/synthesis/render.py",
        "signs/training/networks.py",
        "signs/reporting/templates/report.html",
    }.isdisjoint(files)


def test_changes_that_are_not_committed_show_in_the_version(project: Project) -> None:
    service = project.folder / "service.py"
    committed = service.read_text()
    service.write_text(committed + "\n")
    try:
        made = project.make("bento")
        assert f"{project.commit[:10]}-dirty" in made.stdout
    finally:
        service.write_text(committed)


def test_says_in_one_sentence_what_is_missing(project: Project) -> None:
    def error(*arguments: str, **variables: str) -> str:
        made = project.make(*arguments, **variables)
        assert made.returncode != 0
        (line,) = (line for line in made.stderr.splitlines() if not line.startswith("make"))
        assert line.startswith("ERROR: ")
        return line

    assert "ENGINE=nothing" in error("image", "ENGINE=nothing")
    model = project.folder / "models/classifier/model.onnx"
    content = model.read_bytes()
    try:
        model.write_bytes(content[:-9])
        assert "truncated" in error("bento")
        (project.folder / "models/classifier").rename(project.folder / "models/away")
        assert "'make' trains one" in error("bento")
    finally:
        (project.folder / "models/away").rename(project.folder / "models/classifier")
        model.write_bytes(content)


def test_answers_with_a_read_only_root(
    container: Container, make_photo: Callable[..., bytes]
) -> None:
    answer = predict(container, make_photo("Blue"))
    assert (answer["prediction"], answer["name"], answer["known"]) == (20, "Blue", True)
    for path in ("demo", "docs.json", "metrics"):
        urllib.request.urlopen(f"{container.address}/{path}", timeout=20).close()
    log = podman("logs", container.name)
    assert "Traceback" not in log
    # There is no volume for them here: said once, and the answers go on.
    predict(container, make_photo("Red"))
    assert podman("logs", container.name).count("Predictions are not logged") == 1


def test_is_healthy_and_runs_as_nobody_special(container: Container) -> None:
    podman("healthcheck", "run", container.name)
    assert podman("exec", container.name, "id", "-u") == "10001"
    script = "touch /file /bento/file /packages/file; command -v gcc cc make uv; true"
    assert podman("exec", container.name, "sh", "-c", script) == ""
    find = (
        "from importlib.util import find_spec; print(find_spec('tensorflow'), find_spec('keras'))"
    )
    assert podman("exec", container.name, "python", "-c", find) == "None None"


def test_the_image_says_what_it_is(image: str, project: Project) -> None:
    version = image.partition(":")[2]
    model = json.loads((project.folder / "models/classifier/classifier.json").read_bytes())[
        "version"
    ]
    assert version == f"{model}-{project.commit[:10]}"  # as the bento's that was made before
    found = inspect("image", image)
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "traffic-signs"
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.revision"] == project.commit
    assert labels["org.opencontainers.image.description"]
    assert labels["signs.data"] == "d1f"
    assert found["User"] == "10001:10001"
    assert "3000/tcp" in found["Config"]["ExposedPorts"]
    assert found["Config"]["StopSignal"] == "SIGTERM"
    assert found["Size"] < MOST_MB * 1e6
    last = [line for line in project.said.splitlines() if line.strip()][-2:]
    assert f"The image {image}, {found['Size'] / 1e6:.0f} MB" in last[0]
    assert last[1].split() == (
        f"podman run --rm --read-only --tmpfs /tmp --publish 127.0.0.1:3000:3000 {image}".split()
    )


def test_predictions_are_logged_to_a_volume_and_sigterm_ends_it(
    image: str, make_photo: Callable[..., bytes]
) -> None:
    volume = f"signs-test-{os.getpid()}"
    try:
        with started(image, "--volume", f"{volume}:/monitoring") as container:
            predict(container, make_photo("Red"))
            log = podman(
                *("exec", container.name, "sh", "-c"), "cat /monitoring/predictions/data/*.log"
            )
            assert '"Red"' in log
            begun = time.monotonic()
            podman("kill", "--signal", "TERM", container.name)
            assert podman("wait", container.name) == "0"
            assert time.monotonic() - begun < 10
    finally:
        podman("volume", "rm", "--force", volume)
