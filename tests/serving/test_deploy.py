"""`make smoke`, `make deploy` and `make rollback` with real containers behind the real HAProxy."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from signs.inference import predictions
from signs.inference.classifier import FOLDER, Classifier

# Where no layer is there yet, the first test waits two minutes for the packages.
pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
CONNECTIONS = 8


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass
class Site:
    """A clone, a machine's deployments and their stable port.

    Attributes:
        folder: the clone.
        state: what SIGNS_STATE names.
        name: what containers are called after.
        port: the stable one.
        versions: of what `build` made, in order.
    """

    folder: Path
    state: Path
    name: str
    port: int
    environment: dict[str, str]
    versions: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
        )

    def succeed(self, *arguments: str) -> str:
        done = self.make(*arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def fail(self, *arguments: str) -> str:
        done = self.make(*arguments)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("ERROR: "), done.stderr
        return done.stderr

    def git(self, *arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=self.folder, text=True).strip()

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "--allow-empty", "--quiet", "--message", "Another one")

    def build(self, smoke: Path) -> str:
        """Pack and build the present commit; its version."""
        self.succeed("image")
        shutil.copytree(smoke, self.folder / "build/smoke")
        text = (self.folder / "build/build.env").read_text()
        version = text.splitlines()[0].removeprefix("version=")
        self.versions.append(version)
        return version

    def spoil(self, version: str, file: str, change: Callable[[bytes], bytes]) -> None:
        """An image `version` of what is packed, with one file of the classifier changed."""
        shutil.copytree(self.folder / "build", self.folder.parent / "build", dirs_exist_ok=True)
        path = self.folder / "build/bento/src" / FOLDER / file
        path.write_bytes(change(path.read_bytes()))
        env = self.folder / "build/build.env"
        env.write_text(re.sub(r"version=\S+", f"version={version}", env.read_text()))
        self.versions.append(version)
        self.succeed("containerize")

    def mend(self) -> None:
        shutil.rmtree(self.folder / "build")
        shutil.move(self.folder.parent / "build", self.folder / "build")

    def status(self) -> str:
        return self.succeed("deploy", "ARGS=status").strip()

    def running(self) -> set[str]:
        names = subprocess.check_output(["podman", "ps", "--format", "{{.Names}}"], text=True)
        return {n.removeprefix(f"{self.name}-") for n in names.split() if n.startswith(self.name)}

    def commit_served(self) -> str:
        """The label of the image that answers."""
        (slot,) = self.running()
        label = '{{index .Config.Labels "org.opencontainers.image.version"}}'
        command = ["podman", "inspect", "--format", label, f"{self.name}-{slot}"]
        return subprocess.check_output(command, text=True).strip()


@pytest.fixture(scope="module")
def smoke_photos(
    service_copy: Callable[[Path], Path],
    make_photo: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """As `make bento` writes them where there are test photos."""
    classifier = Classifier(service_copy(tmp_path_factory.mktemp("c") / "c") / FOLDER)
    folder = tmp_path_factory.mktemp("smoke")
    photos = []
    for number, color in enumerate(("Red", "Green", "Blue")):
        content = make_photo(color)
        (folder / f"{number}.png").write_bytes(content)
        (answer,) = predictions.predict_photos(classifier, [content])
        photos.append(answer | {"photo": f"{number}.png"})
    text = json.dumps({"model": classifier.metadata.version, "photos": photos})
    (folder / "answers.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def site(
    service_copy: Callable[[Path], Path],
    smoke_photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    base = ["podman", "run", "--rm", "--pull=never", "python:3.11-slim", "python", "-c", ""]
    if shutil.which("podman") is None or subprocess.run(base, capture_output=True).returncode:
        pytest.skip("podman does not run python:3.11-slim here; .ci/containers.sh sets it up")
    if shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs HAProxy (apt install haproxy)")
    folder = service_copy(tmp_path_factory.mktemp("site") / "clone")
    for name in ("Makefile", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "deployment", folder / "deployment", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "/.venv\n")
    port, blue, green = free_ports(3)
    name = f"signs-test-{port}"
    values = folder / "deployment/values.toml"
    text = values.read_text()
    for key, value in (("port", port), ("blue_port", blue), ("green_port", green), ("workers", 1)):
        text = re.sub(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
    values.write_text(re.sub(r'(?m)^name = "\S+"', f'name = "{name}"', text))
    # A UNIX socket's path may have no more than 107 characters.
    state = Path("/tmp") / name
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHON")}
    environment |= {
        "BENTOML_HOME": str(folder.parent / "home"),
        "ENGINE": "podman",
        "SIGNS_STATE": str(state),
    }
    site = Site(folder, state, name, port, environment)
    for command in (
        ("init", "--quiet"),
        ("config", "user.name", "T"),
        ("config", "user.email", "t@localhost"),
        ("config", "commit.gpgsign", "false"),
    ):
        site.git(*command)
    site.commit()
    site.build(smoke_photos)
    try:
        yield site
    finally:
        for slot in ("blue", "green", "smoke"):
            subprocess.run(["podman", "rm", "--force", f"{name}-{slot}"], capture_output=True)
            subprocess.run(
                ["podman", "volume", "rm", "--force", f"{name}-{slot}"], capture_output=True
            )
        if (state / "haproxy.pid").exists():
            os.kill(int((state / "haproxy.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(state, ignore_errors=True)
        for version in site.versions:
            subprocess.run(
                ["podman", "image", "rm", "--force", f"traffic-signs:{version}"],
                capture_output=True,
            )


@pytest.fixture
def deployed(site: Site) -> Site:
    """One at least, that answers."""
    if "Nothing" in site.status():
        site.succeed("deploy")
    return site


def predict(site: Site, photo: bytes) -> Any:
    request = urllib.request.Request(
        f"{site.address}/predict", photo, {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@dataclass
class Load:
    """wrk, asking over and over on connections that it keeps open."""

    process: "subprocess.Popen[str]"

    def end_unharmed(self) -> None:
        """Stop it: each request was answered, with 200."""
        self.process.send_signal(signal.SIGINT)
        printed = self.process.communicate(timeout=30)[0]
        answered = re.search(r"(\d+) requests in", printed)
        assert answered, printed
        assert int(answered[1]) > 1000, printed
        assert "Socket errors" not in printed, printed
        assert "Non-2xx" not in printed, printed


@pytest.fixture
def load(deployed: Site, make_photo: Callable[..., bytes], tmp_path: Path) -> Iterator[Load]:
    if shutil.which("wrk") is None:
        pytest.skip("needs wrk (apt install wrk)")
    (tmp_path / "photo").write_bytes(make_photo("Blue"))
    script = tmp_path / "post.lua"
    # What is not answered at all is counted by wrk itself, under "Socket errors".
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "image/png"\n'
        f'wrk.body = io.open("{tmp_path / "photo"}", "rb"):read("*a")\n'
    )
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--timeout", "30s"]
    command += ["--duration", "120s", "--script", str(script), f"{deployed.address}/predict"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    try:
        yield Load(process)
    finally:
        process.kill()
        process.wait()


def test_says_when_there_is_nothing(site: Site) -> None:
    if site.running():
        pytest.skip("another test deployed already")
    assert site.status() == "Nothing is deployed on this host."
    assert "no earlier deployment" in site.fail("rollback")


def test_smoke_runs_the_image_and_leaves_nothing(site: Site) -> None:
    before = site.running()
    assert "3 photos answered as expected" in site.succeed("smoke")
    assert site.running() == before


def test_the_first_deployment_answers_on_the_stable_port(
    deployed: Site, make_photo: Callable[..., bytes]
) -> None:
    assert predict(deployed, make_photo("Blue"))["name"] == "Blue"
    assert deployed.versions[0] in deployed.status()
    assert "3 photos answered" in deployed.succeed("smoke", f"ARGS=--url {deployed.address}")


def test_no_request_is_lost_by_a_deployment_and_a_rollback(
    deployed: Site, smoke_photos: Path, load: Load
) -> None:
    first = deployed.commit_served()
    deployed.commit()
    second = deployed.build(smoke_photos)
    assert first != second
    said = deployed.succeed("deploy")
    assert "Switched" in said
    assert second in said.splitlines()[-1]
    assert deployed.commit_served() == second
    deployed.succeed("rollback")
    assert deployed.commit_served() == first
    assert first in deployed.status()
    # What was withdrawn does not come back.
    assert "no earlier deployment" in deployed.fail("rollback")
    load.end_unharmed()


def test_wrong_answers_are_not_deployed(
    deployed: Site, make_photo: Callable[..., bytes], load: Load
) -> None:
    before = deployed.commit_served()

    def swapped(content: bytes) -> bytes:
        about = json.loads(content)
        about["class_ids"].reverse()
        about["names"].reverse()
        return json.dumps(about).encode()

    deployed.spoil("wrong", "classifier.json", swapped)
    try:
        said = deployed.fail("deploy")
    finally:
        deployed.mend()
    assert "answers 2 of 3 photos wrongly: 0.png is Red" in said
    assert "still answers" in said
    assert deployed.commit_served() == before
    load.end_unharmed()


def test_what_does_not_get_ready_is_not_deployed(deployed: Site) -> None:
    before = deployed.commit_served()
    deployed.spoil("broken", "model.onnx", lambda content: content[:-9])
    try:
        said = deployed.fail("deploy")
    finally:
        deployed.mend()
    assert "still answers" in said
    assert "truncated" in said  # the service's own last words
    assert deployed.commit_served() == before


def test_a_deployment_that_is_killed_loses_nothing(deployed: Site, load: Load) -> None:
    before = deployed.running()
    command = [sys.executable, "-m", "deployment.deploy"]
    killed = subprocess.Popen(
        command, cwd=deployed.folder, env=deployed.environment, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while deployed.running() == before and time.monotonic() < end:
        time.sleep(0.1)
    assert "under way" in deployed.fail("deploy")
    killed.kill()
    killed.wait()
    deployed.succeed("deploy")
    assert len(deployed.running()) == 1
    load.end_unharmed()


def test_only_what_the_tag_names_is_deployed(deployed: Site) -> None:
    assert "There is no tag classifier@v9.0.0" in deployed.fail("deploy", "VERSION=v9.0.0")
    deployed.commit()
    deployed.git("tag", "classifier@v0.1.0", "HEAD~1")
    deployed.git("tag", "classifier@v0.2.0", "HEAD")
    assert "classifier@v0.2.0 is commit" in deployed.fail("deploy", "VERSION=v0.2.0")
    deployed.succeed("deploy", "VERSION=classifier@v0.1.0")


def test_the_stable_port_cuts_off_slow_headers(deployed: Site) -> None:
    with socket.create_connection(("127.0.0.1", deployed.port), timeout=20) as connection:
        connection.sendall(b"GET /model HTTP/1.1\r\n")
        begun = time.monotonic()
        answer = connection.recv(65536)
        assert time.monotonic() - begun < 10
    assert answer.startswith(b"HTTP/1.1 408")


def test_the_stable_port_answers_in_json_when_the_service_is_gone(
    deployed: Site, make_photo: Callable[..., bytes]
) -> None:
    (slot,) = deployed.running()
    subprocess.run(["podman", "stop", f"{deployed.name}-{slot}"], check=True, capture_output=True)
    with pytest.raises(urllib.error.HTTPError) as caught:
        predict(deployed, make_photo("Blue"))
    assert caught.value.code == 503
    assert caught.value.headers["Retry-After"] == "5"
    assert "does not answer" in json.loads(caught.value.read())["error"]
    # As after a machine's restart: the next deployment repairs it.
    deployed.succeed("deploy")
    assert predict(deployed, make_photo("Blue"))["name"] == "Blue"


def test_bad_values_are_named(deployed: Site) -> None:
    values = deployed.folder / "deployment/values.toml"
    committed = values.read_text()
    try:
        values.write_text(committed + "replica = 3\n")
        assert "unknown keys: replica" in deployed.fail("deploy")
        values.write_text(committed.replace("workers = 1", "workers = 0"))
        assert "workers is 0, but must be above 0" in deployed.fail("deploy")
        values.write_text(committed.replace("workers = 1", 'workers = "1"'))
        assert "must be a int" in deployed.fail("deploy")
    finally:
        values.write_text(committed)
