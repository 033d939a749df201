"""`make smoke`, `make deploy` and `make rollback` with real containers behind the real HAProxy."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from signs.paths import CLASSIFIER
from tests.conftest import photo
from tests.deployment.conftest import Clone, at, end_job, podman
from tests.harness import wait_until
from tests.serving.clients import needs_wrk, wrk

# The first test installs the packages if they are in no layer yet, which takes two minutes.
pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

COOKIE = f"test-deploy-{os.getpid()}"
VERSION_LABEL = '{{index .Config.Labels "org.opencontainers.image.version"}}'


class Site:
    """Deployments of a clone: builds of it, and what runs."""

    def __init__(self, clone: Clone, build_image: Callable[[], str], photos: Path) -> None:
        self.clone, self.succeed, self.fail = clone, clone.succeed, clone.fail
        self.build_image, self.photos = build_image, photos
        self.service = at(f"http://127.0.0.1:{clone.port}")

    def build(self) -> str:
        """Pack and build a new commit; its version."""
        self.clone.commit()
        self.build_image()
        shutil.copytree(self.photos, self.clone.folder / "build/smoke")
        return self.clone.versions[-1]

    @contextlib.contextmanager
    def spoiled(self, version: str, file: str, change: Callable[[bytes], bytes]) -> Iterator[None]:
        """An image `version` of what is packed, with one file of the classifier changed."""
        build, kept = self.clone.folder / "build", self.clone.folder.parent / "build"
        shutil.copytree(build, kept)
        path = build / "bento/src" / CLASSIFIER / file
        path.write_bytes(change(path.read_bytes()))
        text = (build / "build.env").read_text()
        (build / "build.env").write_text(re.sub(r"version=\S+", f"version={version}", text))
        self.clone.versions.append(version)
        try:
            self.succeed("containerize")
            yield
        finally:
            shutil.rmtree(build)
            kept.rename(build)

    def running(self) -> set[str]:
        names = podman("ps", "--format", "{{.Names}}").split()
        return {name for name in names if name.startswith(self.clone.name)}

    def version_in_service(self) -> str:
        (name,) = self.running()
        return podman("inspect", "--format", VERSION_LABEL, name)


@pytest.fixture(scope="module")
def site(clone: Clone, build_image: Callable[[], str], smoke_photos: Path) -> Site:
    if shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs HAProxy (apt install haproxy)")
    clone.environment["JENKINS_NODE_COOKIE"] = COOKIE
    site = Site(clone, build_image, smoke_photos)
    site.build()
    return site


@pytest.fixture
def deployed(site: Site) -> Site:
    """With a version in service."""
    if "Nothing" in site.succeed("deploy", "ARGS=status"):
        site.succeed("deploy")
    return site


@pytest.fixture
def load(deployed: Site, tmp_path: Path) -> Iterator[None]:
    """wrk asks on connections that it keeps open, and no request of the whole test fails."""
    process = wrk(deployed.service, photo("Blue"), tmp_path, 8, 500)
    time.sleep(1)
    try:
        yield
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=30)[0]
        assert re.search(r"\d{4,} requests in", printed), printed
        # wrk counts requests without an answer as socket errors.
        assert not re.search("Socket errors|Non-2xx", printed), printed
    finally:
        process.kill()
        process.wait()


def test_says_that_nothing_is_deployed(site: Site) -> None:
    if site.running():
        pytest.skip("another test deployed already")
    assert site.succeed("deploy", "ARGS=status") == "Nothing is deployed on this host.\n"
    assert "no earlier deployment" in site.fail("rollback")


def test_smoke_runs_the_image_and_leaves_nothing(site: Site) -> None:
    before = site.running()
    assert "all 3 photos as expected" in site.succeed("smoke")
    assert site.running() == before


def test_stopped_smoke_leaves_nothing(site: Site) -> None:
    before, clone = site.running(), site.clone
    command = [sys.executable, "-m", "deployment.smoke"]
    stopped = subprocess.Popen(command, cwd=clone.folder, env=clone.environment)
    assert wait_until(lambda: site.running() != before)
    stopped.terminate()
    assert stopped.wait(60) == 130
    assert site.running() == before


def test_first_deployment_answers_on_the_stable_port(deployed: Site) -> None:
    assert deployed.service.send(photo("Blue")).body["name"] == "Blue"
    assert deployed.version_in_service() in deployed.succeed("deploy", "ARGS=status")
    assert "all 3 photos as expected" in deployed.succeed("smoke", "ARGS=--deployed")


def test_service_outlives_the_job_that_deployed_it(deployed: Site) -> None:
    end_job(COOKIE)
    assert deployed.service.send(photo("Blue")).body["name"] == "Blue"


@needs_wrk
@pytest.mark.usefixtures("load")
def test_deployment_and_rollback_lose_no_request(deployed: Site) -> None:
    first, second = deployed.version_in_service(), deployed.build()
    assert first != second
    printed = deployed.succeed("deploy")
    assert "Switched" in printed
    assert second in printed.splitlines()[-1]
    assert deployed.version_in_service() == second
    assert first in deployed.succeed("rollback").splitlines()[-1]
    assert deployed.version_in_service() == first
    # The withdrawn version does not come back.
    assert "no earlier deployment" in deployed.fail("rollback")


def swapped(content: bytes) -> bytes:
    """Metadata with the names of other classes."""
    metadata = json.loads(content)
    metadata["class_ids"].reverse()
    metadata["names"].reverse()
    return json.dumps(metadata).encode()


@needs_wrk
@pytest.mark.usefixtures("load")
@pytest.mark.parametrize(
    ("version", "file", "change", "message"),
    [
        ("wrong", "classifier.json", swapped, "2 of 3 photos wrong: 0.png is Red"),
        # One of the service's own last lines.
        ("broken", "model.onnx", lambda content: content[:-9], "truncated"),
    ],
)
def test_failed_deployment_leaves_the_previous_version_in_service(
    deployed: Site, version: str, file: str, change: Callable[[bytes], bytes], message: str
) -> None:
    before = deployed.version_in_service()
    with deployed.spoiled(version, file, change):
        said = deployed.fail("deploy")
    assert message in said
    assert "still answers" in said
    assert deployed.version_in_service() == before


@needs_wrk
@pytest.mark.usefixtures("load")
def test_killed_deployment_loses_no_request(deployed: Site) -> None:
    before, clone = deployed.running(), deployed.clone
    command = [sys.executable, "-m", "deployment.deploy"]
    killed = subprocess.Popen(command, cwd=clone.folder, env=clone.environment)
    assert wait_until(lambda: deployed.running() != before)
    assert "under way" in deployed.fail("deploy")
    killed.kill()
    killed.wait()
    deployed.succeed("deploy")
    assert len(deployed.running()) == 1


def test_deploys_only_what_was_built_from_the_tag(deployed: Site) -> None:
    assert "There is no tag classifier@v9.0.0" in deployed.fail("deploy", "VERSION=v9.0.0")
    deployed.clone.commit()
    deployed.clone.git("tag", "classifier@v0.1.0", deployed.clone.packed()["revision"])
    deployed.clone.git("tag", "classifier@v0.2.0", "HEAD")
    assert "classifier@v0.2.0 is commit" in deployed.fail("deploy", "VERSION=v0.2.0")
    deployed.succeed("deploy", "VERSION=classifier@v0.1.0")


def test_next_deployment_repairs_a_service_that_is_gone(deployed: Site) -> None:
    (name,) = deployed.running()
    podman("stop", name)
    assert deployed.service.send(photo("Blue")).status == 503
    deployed.succeed("deploy")
    assert deployed.service.send(photo("Blue")).body["name"] == "Blue"
