"""The Jenkinsfile, run by `runner.groovy`: real containers, an S3 remote, real deployments.

It shows that the stages do together what they should: each `sh` is executed, in a container of
the image that the Dockerfile makes where Jenkins would do so. It does not show that Jenkins, its
plugins and their versions accept the file, that a webhook starts a build, how `currentBuild`
decides what `changed` means, or that an agent with docker instead of podman behaves alike.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BUCKET, KEY_ID, ROOT, S3, SECRET, Server, free_ports

# The first build of the agent's image takes some minutes.
pytestmark = pytest.mark.timeout(1500)

AGENT = "traffic-signs-pipeline"
FORCED = {"DATASET": "signs", "FORCE": True}
CREDENTIALS = {"dvc-access-key-id": KEY_ID, "dvc-secret-access-key": SECRET, "git": "token"}
LENIENT = {"gate.max_ece": 1.0, "gate.significance": 0.000001}
LENIENT |= {"gate.max_recall_drop": 1.0, "gate.max_latency_ratio": 20.0}


@dataclass
class Build:
    """What one run of the Jenkinsfile did."""

    events: list[dict[str, Any]]
    log: str
    status: int

    def stages(self, kind: str = "stage") -> list[str]:
        return [event["stage"] for event in self.events if event["event"] == kind]

    def posts(self) -> list[str]:
        return [e["condition"] for e in self.events if e["event"] == "post" and not e["stage"]]

    def first(self, kind: str) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == kind)


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"needs {program} (apt install {program})")


def run_jenkinsfile(folder: Path, **changes: Any) -> Build:
    """One build of main, if `changes` do not say otherwise, in `folder`/workspace."""
    workspace = folder / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    log, situation = folder / "build.log", folder / "situation.json"
    log.unlink(missing_ok=True)
    content = {
        "jenkinsfile": str(ROOT / "Jenkinsfile"),
        "workspace": str(workspace),
        "repository": "",
        "branch": "main",
        "tag": None,
        "user": "12345:12345" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}",
        "params": {"DATASET": "", "FORCE": False},
        "credentials": CREDENTIALS,
        "environment": {},
        "engine": "podman",
        "image": AGENT,
        "log": str(log),
        "dry": False,
    }
    situation.write_text(json.dumps(content | changes))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "PYTHON"))}
    java = Path(os.path.realpath(shutil.which("java") or "")).parents[1]
    groovy = ["groovy", str(Path(__file__).with_name("runner.groovy")), str(situation)]
    environment = kept | {"JAVA_HOME": str(java)}
    done = subprocess.run(groovy, env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    said = log.read_text(errors="replace") if log.exists() else ""
    assert lines, done.stderr
    assert "Caught:" not in done.stderr, done.stderr  # what is not a failed step
    assert json.loads(lines[-1])["event"] == "end", done.stdout + done.stderr + said[-3000:]
    return Build([json.loads(line) for line in lines], said, done.returncode)


class Jenkins:
    """A repository with its origin, a place for deployments, and builds of them."""

    def __init__(self, project: Any, folder: Path, git: str, s3: S3) -> None:
        self.project, self.folder, self.origin = project, folder, git
        self.port, blue, green = free_ports(3)
        self.name = f"signs-jenkins-{self.port}"
        self.state = Path("/tmp") / self.name  # a socket's path must be short
        ports = {"port": self.port, "blue_port": blue, "green_port": green, "workers": 1}
        values = project.path("deployment/values.toml")
        text = values.read_text()
        for key, value in ports.items():
            text = re.sub(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
        values.write_text(re.sub(r'(?m)^name = "\S+"', f'name = "{self.name}"', text))
        project.dvc("remote", "add", "--default", "s3", f"s3://{BUCKET}/project").succeeds()
        project.dvc("remote", "modify", "s3", "endpointurl", s3.url).succeeds()
        project.dvc("remote", "modify", "s3", "region", "us-east-1").succeeds()
        project.environment |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    def write_tests(self, body: str) -> None:
        """In place of the project's, which take long and run elsewhere."""
        path = self.project.path("tests/test_it.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'def test_it() -> None:\n    """It works."""\n    {body}\n')

    def push(self, message: str) -> None:
        self.project.dvc("push").succeeds()
        self.project.commit(message)
        self.project.run("git", "push", "--quiet", self.origin, "main").succeeds()

    def build(self) -> Build:
        environment = {"SIGNS_STATE": str(self.state), "ENGINE": "podman"}
        environment["GIT_CONFIG_GLOBAL"] = os.devnull
        return run_jenkinsfile(self.folder, repository=self.origin, environment=environment)

    def tags(self) -> set[str]:
        listed = subprocess.check_output(["git", "ls-remote", "--tags", self.origin], text=True)
        return {line.rpartition("/")[2] for line in listed.splitlines() if "^{}" not in line}

    def served(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/model", timeout=20) as reply:
            return json.loads(reply.read())["version"]

    def close(self) -> None:
        for slot in ("blue", "green", "smoke"):
            name = f"{self.name}-{slot}"
            subprocess.run(["podman", "rm", "--force", name], capture_output=True)
            subprocess.run(["podman", "volume", "rm", "--force", name], capture_output=True)
        if (self.state / "haproxy.pid").exists():
            os.kill(int((self.state / "haproxy.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(self.state, ignore_errors=True)


@pytest.fixture(scope="module")
def jenkins(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jenkins]:
    needs("groovy", "haproxy", "podman")
    base = ["podman", "run", "--rm", "--pull=never", "python:3.11-slim", "python", "-c", ""]
    if subprocess.run(base, capture_output=True).returncode:
        pytest.skip("podman does not run python:3.11-slim here; .ci/containers.sh sets it up")
    s3 = S3(tmp_path_factory.mktemp("s3"))
    folder = tmp_path_factory.mktemp("jenkins")
    project = finished.project.copy(folder / "clone")
    subprocess.run(["git", "init", "--quiet", "--bare", folder / "origin.git"], check=True)
    (port,) = free_ports(1)
    daemon = ["git", "daemon", "--reuseaddr", "--export-all", "--enable=receive-pack"]
    daemon += [f"--base-path={folder}", "--listen=127.0.0.1", f"--port={port}", str(folder)]
    server = Server(folder, daemon)
    with contextlib.ExitStack() as running:
        for service in (s3, server):
            service.start()
            running.callback(service.kill)
        jenkins = Jenkins(project, folder, f"git://127.0.0.1:{port}/origin.git", s3)
        running.callback(jenkins.close)
        project.set(**LENIENT)
        jenkins.write_tests("assert 1 + 1 == 2")
        jenkins.push("A project with results")
        yield jenkins


@pytest.mark.jenkins
def test_a_good_commit_is_deployed(jenkins: Jenkins) -> None:
    build = jenkins.build()
    assert build.status == 0, build.log[-5000:]
    assert build.stages() == [
        *("Checkout", "Pipeline", "Lint", "Tests", "Pull", "Preprocess", "Train", "Evaluate"),
        *("Reproducibility", "Report", "Gate", "Push", "Bento", "Image", "Smoke test", "Release"),
        *("Deploy", "Switch", "Check", "Promote"),
    ]
    # In the agent's image is what needs packages; outside, what needs an engine.
    inside = {e["script"]: e["container"] for e in build.events if e["event"] == "sh"}
    assert inside["make train"]
    assert inside["make promote ARGS=--push"]
    assert not inside["make containerize"]
    assert not inside["make deploy"]
    assert build.first("junit")["tests"] == "1"
    archived = set(build.first("archive")["files"])
    assert {"report.html", "diff.md", "diff.html", "gate.md", "gate.json"} < archived
    assert "build/sbom.cdx.json" in archived
    assert build.posts() == ["always", "cleanup"]
    assert "Reproduced, byte for byte." in build.log
    assert "May be deployed" in build.log
    assert jenkins.tags() == {"classifier@v0.0.1", "classifier#production#1"}
    metadata = jenkins.project.json("models/classifier/classifier.json")
    assert jenkins.served() == metadata["version"]
    # Secrets come from the store, and go nowhere else.
    assert SECRET not in build.log


@pytest.mark.jenkins
def test_the_agents_image_runs_make(finished: Any, jenkins: Jenkins) -> None:
    folder = jenkins.folder / "other"
    project = finished.project.copy(folder)
    project.path("data/prepared/prepared.json").unlink()
    subprocess.run(["chown", "-R", "12345:12345", folder], check=True)
    command = ["podman", "run", "--rm", "--user", "12345:12345", "--volume", f"{folder}:/work"]
    done = subprocess.run([*command, AGENT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Pictures and tables: report.html" in done.stdout


@pytest.mark.jenkins
def test_what_the_gate_refuses_is_not_deployed(jenkins: Jenkins) -> None:
    before, tags = jenkins.served(), jenkins.tags()
    jenkins.project.set(**{"gate.max_model_mb": 0.001})
    jenkins.push("Small models only")
    build = jenkins.build()
    assert build.status == 1
    assert build.stages("failed stage") == ["Gate", "Pipeline"]
    assert "REFUSED" in build.log
    assert {"Push", "Bento", "Image", "Deploy", "Switch"}.isdisjoint(build.stages())
    assert build.posts() == ["always", "changed", "cleanup"]
    assert "gate.md" in build.first("archive")["files"]
    assert build.first("mail")["subject"] == "test: FAILURE"
    assert jenkins.served() == before
    assert jenkins.tags() == tags


@pytest.mark.jenkins
def test_failing_tests_end_the_build(jenkins: Jenkins) -> None:
    jenkins.write_tests("assert 1 + 1 == 3")
    jenkins.push("Broken")
    build = jenkins.build()
    assert build.status == 1
    assert build.stages("failed stage") == ["Tests", "Pipeline"]
    assert build.stages()[-1] == "Tests"
    assert build.first("junit")["failures"] == "1"
    assert build.posts() == ["always", "changed", "cleanup"]


@pytest.mark.parametrize(
    ("situation", "skipped", "version"),
    [
        ({"branch": "feature"}, ["Release", "Deploy"], False),
        ({"branch": "v", "tag": "classifier@v0.0.1"}, ["Gate", "Release"], True),
        ({"branch": "v", "tag": "other@v0.0.1"}, ["Gate", "Release", "Deploy"], True),
        ({"params": FORCED}, ["Reproducibility", "Gate", "Release", "Deploy"], False),
    ],
)
def test_what_is_not_mains_is_not_released(
    tmp_path: Path, situation: dict[str, Any], skipped: list[str], version: bool
) -> None:
    needs("groovy")
    build = run_jenkinsfile(tmp_path, dry=True, **situation)
    assert build.status == 0
    assert build.stages("skipped") == skipped
    empty = {e["name"]: e["empty"] for e in build.events if e["event"] == "environment"}
    # `make` takes them from the environment.
    assert empty["VERSION"] != version
    assert empty["DATASET"] == empty["FORCE"] == ("params" not in situation)


def test_each_step_is_a_target_of_make() -> None:
    scripts = re.findall(r"sh '([^']+)'", (ROOT / "Jenkinsfile").read_text())
    known = re.findall(r"(?m)^([a-z -]+):", (ROOT / "Makefile").read_text())
    targets = {target for line in known for target in line.split()}
    assert len(scripts) > 15
    for script in scripts:
        make, *words = script.split()
        assert make == "make"
        assert {word for word in words if not word.startswith("ARGS=")} <= targets, script
