"""The Jenkinsfile, run by `runner.groovy`: real containers, an S3 remote, real deployments.

It shows that the stages do together what they should: each `sh` is executed, in a container of
the image that the Dockerfile makes where Jenkins would do so. It does not show that Jenkins, its
plugins and their versions accept the file, that a webhook starts a build, that builds wait for a
lock, or that an agent with docker instead of podman behaves alike.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DIRECT
from tests.harness import BUCKET, KEY_ID, ROOT, S3, SECRET, Server, free_ports

# The first build of the agent's image takes some minutes.
pytestmark = pytest.mark.timeout(1500)

AGENT = "traffic-signs-pipeline"
CREDENTIALS = {"store": [KEY_ID, SECRET], "git": "token"}
LENIENT = {"gate.max_ece": 1.0, "gate.significance": 0.000001}
LENIENT |= {"gate.max_recall_drop": 1.0, "gate.max_latency_ratio": 20.0}


@dataclass
class Build:
    """What one run of the Jenkinsfile did."""

    events: list[dict[str, Any]]
    log: str

    @property
    def result(self) -> str:
        return str(self.first("end")["result"])

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def stages(self, kind: str = "stage") -> list[str]:
        return [event["stage"] for event in self.of(kind)]

    def posts(self) -> list[str]:
        return [event["condition"] for event in self.of("post") if not event["stage"]]

    def scripts(self) -> dict[str, dict[str, Any]]:
        return {event["script"]: event for event in self.of("sh")}

    def first(self, kind: str) -> dict[str, Any]:
        return self.of(kind)[0]


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"needs {program} (apt install {program})")


def run_jenkinsfile(folder: Path, *situations: dict[str, Any]) -> list[Build]:
    """Builds of main, where situations do not say otherwise, in `folder`/workspace."""
    workspace, log = folder / "workspace", folder / "build.log"
    shutil.rmtree(workspace, ignore_errors=True)
    log.unlink(missing_ok=True)
    usual = {
        "jenkinsfile": str(ROOT / "Jenkinsfile"),
        "workspace": str(workspace),
        "repository": "",
        "branch": "main",
        "tag": None,
        "change": None,
        "user": "12345:12345" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}",
        "params": {"DATASET": "", "FORCE": False},
        "variables": {"DVC_CREDENTIALS": "store"},
        "credentials": CREDENTIALS,
        "environment": {},
        "engine": "podman",
        "image": AGENT,
        "volume": "",
        "log": str(log),
        "dry": False,
        "previous": "SUCCESS",
        "ends": {},
    }
    files = [folder / f"situation-{number}.json" for number in range(len(situations))]
    for file, situation in zip(files, situations, strict=True):
        file.write_text(json.dumps(usual | situation))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "PYTHON"))}
    java = Path(os.path.realpath(shutil.which("java") or "")).parents[1]
    groovy = ["groovy", str(Path(__file__).with_name("runner.groovy")), *map(str, files)]
    environment = kept | {"JAVA_HOME": str(java)}
    done = subprocess.run(groovy, env=environment, capture_output=True, text=True)
    said = log.read_text(errors="replace") if log.exists() else ""
    # Anything but a failed step, such as a name that the runner does not know.
    assert done.returncode == 0, done.stdout + done.stderr + said[-3000:]
    builds = [Build([], said)]
    for event in map(json.loads, done.stdout.splitlines()):
        builds[-1].events.append(event)
        if event["event"] == "end":
            builds.append(Build([], said))
    return builds[:-1]


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
        situation = {"repository": self.origin, "environment": environment, "volume": self.name}
        return run_jenkinsfile(self.folder, situation)[0]

    def tags(self) -> set[str]:
        listed = subprocess.check_output(["git", "ls-remote", "--tags", self.origin], text=True)
        return {line.rpartition("/")[2] for line in listed.splitlines() if "^{}" not in line}

    def served(self) -> Any:
        with DIRECT.open(f"http://127.0.0.1:{self.port}/model", timeout=20) as reply:
            return json.loads(reply.read())["version"]

    def close(self) -> None:
        for slot in ("blue", "green", "smoke"):
            name = f"{self.name}-{slot}"
            subprocess.run(["podman", "rm", "--force", name], capture_output=True)
            subprocess.run(["podman", "volume", "rm", "--force", name], capture_output=True)
        subprocess.run(["podman", "volume", "rm", "--force", self.name], capture_output=True)
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
    assert build.result == "SUCCESS", build.log[-5000:]
    assert build.stages() == [
        *("Build", "Checkout", "Pipeline", "Pull", "Preprocess", "Train", "Evaluate", "Report"),
        *("Checks", "Lint", "Tests", "Reproducibility", "Gate", "Push", "Bento", "Image"),
        *("Smoke test", "Release", "Deploy", "Host", "Image on host", "Switch", "Check"),
        *("Promote", "Checkout for tag", "Tag"),
    ]
    # In the agent's image is what needs packages; outside, what needs an engine.
    inside = {script: event["container"] for script, event in build.scripts().items()}
    assert inside["make train"]
    assert inside["make promote ARGS=--push"]
    assert not inside["make prune containerize"]
    assert not inside["make deploy"]
    # Nothing of the deployment had to be ended with its node, which served() below confirms.
    assert build.of("ended") == []
    assert build.first("junit")["tests"] == "1"
    archived = set(build.first("archive")["files"])
    assert {"report.html", "diff.md", "diff.html", "gate.md", "gate.json"} < archived
    assert "build/sbom.cdx.json" in archived
    assert build.posts() == []
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
    assert build.result == "FAILURE"
    assert build.stages("failed stage") == ["Gate", "Pipeline", "Build"]
    assert "REFUSED" in build.log
    assert {"Push", "Bento", "Image", "Deploy", "Switch"}.isdisjoint(build.stages())
    assert build.posts() == ["unsuccessful"]
    assert "gate.md" in build.first("archive")["files"]
    assert build.first("mail")["subject"] == "test: FAILURE"
    assert jenkins.served() == before
    assert jenkins.tags() == tags


@pytest.mark.jenkins
def test_failing_tests_end_the_build(jenkins: Jenkins) -> None:
    jenkins.write_tests("assert 1 + 1 == 3")
    jenkins.push("Broken")
    build = jenkins.build()
    assert build.result == "FAILURE"
    assert build.stages("failed stage") == ["Tests", "Checks", "Pipeline", "Build"]
    assert build.stages()[-1] == "Tests"
    assert build.first("junit")["failures"] == "1"
    assert build.posts() == ["unsuccessful"]


DRY: dict[str, dict[str, Any]] = {
    "main": {},
    "branch": {"branch": "feature"},
    "change": {"branch": "PR-1", "change": "1"},
    "version": {"branch": "v", "tag": "classifier@v0.0.1"},
    "promoted": {"branch": "v", "tag": "classifier#production#1"},
    "forced": {"params": {"DATASET": "signs", "FORCE": True}},
    "local": {"variables": {}, "credentials": {"git": "token"}, "previous": "FAILURE"},
    "lint": {"ends": {"make lint": "FAILURE"}, "previous": "FAILURE"},
    "deploy": {"ends": {"make deploy": "FAILURE"}},
    "check": {"ends": {"make smoke ARGS=--deployed": "ABORTED"}},
}


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Build]:
    """What would be executed."""
    needs("groovy")
    situations = [situation | {"dry": True} for situation in DRY.values()]
    builds = run_jenkinsfile(tmp_path_factory.mktemp("dry"), *situations)
    return dict(zip(DRY, builds, strict=True))


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("main", []),
        ("branch", ["Push", "Release", "Deploy"]),
        ("change", ["Release", "Deploy"]),
        ("version", ["Gate", "Push", "Release"]),
        ("promoted", ["Build", "Deploy"]),
        ("forced", ["Reproducibility", "Gate", "Push", "Release", "Deploy"]),
    ],
)
def test_what_is_not_mains_is_not_released(
    dry: dict[str, Build], name: str, skipped: list[str]
) -> None:
    build = dry[name]
    assert build.result == "SUCCESS"
    assert build.stages("skipped") == skipped
    # No node is taken for nothing.
    assert bool(build.of("node")) != ("Build" in skipped)
    assert bool(build.of("lock")) != ("Deploy" in skipped)
    empty = {event["name"]: event["empty"] for event in build.of("environment")}
    # `make` takes them from the environment.
    assert empty["VERSION"] != (name in ("version", "promoted"))
    assert empty["DATASET"] == empty["FORCE"] == (name != "forced")


def test_only_what_uses_the_remote_has_its_keys(dry: dict[str, Build]) -> None:
    keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    scripts = dry["main"].scripts()
    having = [script for script, event in scripts.items() if event["secrets"] == keys]
    assert having == ["make pull", "make verify", "make gate", "make push"]
    # Where no variable names them, none are needed.
    assert dry["local"].result == "SUCCESS"
    assert not dry["local"].scripts()["make pull"]["secrets"]


def test_every_step_and_every_wait_for_a_node_has_a_limit(dry: dict[str, Build]) -> None:
    whole = 12 * 60
    assert [event["minutes"] for event in dry["main"].of("node")] == [whole] * 3
    scripts = dry["main"].scripts()
    assert len(scripts) > 15
    # The stage around most of them has a longer one, too.
    assert [script for script, event in scripts.items() if event["minutes"] > 5 * 60] == []


def test_what_does_not_answer_after_the_switch_is_rolled_back(dry: dict[str, Build]) -> None:
    assert dry["check"].result == "ABORTED"
    scripts = dry["check"].scripts()
    # The limit that ended the check must not end the rollback.
    assert scripts["make rollback"]["minutes"] > scripts["make smoke ARGS=--deployed"]["minutes"]
    assert "make promote ARGS=--push" not in scripts
    # A failed deployment has put nothing into service.
    assert "make rollback" not in dry["deploy"].scripts()


def test_mails_each_failure_and_the_first_success_after_it(dry: dict[str, Build]) -> None:
    mails = {name: len(build.of("mail")) for name, build in dry.items()}
    assert {name for name, count in mails.items() if count} == {"local", "lint", "deploy", "check"}
    assert max(mails.values()) == 1


def test_tests_meet_the_model_of_the_commit_and_report_beside_lint(dry: dict[str, Build]) -> None:
    scripts = list(dry["lint"].scripts())
    assert scripts[-3:] == [
        *("make report diff", "make lint", "make test ARGS=--junit-xml=build/tests.xml")
    ]
    assert dry["lint"].stages("failed stage") == ["Lint", "Checks", "Pipeline", "Build"]


# In place of programs: what a build leaves in build/, and a daemon of the deployment.
MAKE = """#!/bin/sh
case $* in
"bento sbom") mkdir build && echo "packed by $AWS_ACCESS_KEY_ID." >build/bento ;;
deploy) cat build/bento && setsid sleep 100 >/dev/null 2>&1 & ;;
esac
"""
ENGINE = """#!/bin/sh
[ "$1" = exec ] || exit 0
shift
while [ "$1" = --env ]; do export "$2" && shift 2; done
shift && exec "$@"
"""


def test_what_is_packed_reaches_the_host_that_serves(tmp_path: Path) -> None:
    needs("groovy")
    for name, text in (("make", MAKE), ("engine", ENGINE)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    origin = tmp_path / "origin"
    for command in (
        f"init --quiet --initial-branch main {origin}",
        "commit --quiet --allow-empty -m x",
    ):
        author = ["-c", "user.name=T", "-c", "user.email=t@localhost"]
        folder = origin if origin.exists() else tmp_path
        subprocess.run(["git", *author, *command.split()], cwd=folder, check=True)
    situation: dict[str, Any] = {"repository": str(origin), "engine": str(tmp_path / "bin/engine")}
    situation["environment"] = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    (build,) = run_jenkinsfile(tmp_path, situation)
    assert build.result == "SUCCESS", build.log
    assert "packed by ." in build.log
    # The runner ends what carries the cookie of the node; deployment/ starts nothing with it.
    assert [event["command"] for event in build.of("ended")] == ["sleep 100 "]


def test_each_step_is_a_target_of_make() -> None:
    scripts = re.findall(r"\bsh '([^']+)'", (ROOT / "Jenkinsfile").read_text())
    known = re.findall(r"(?m)^([a-z -]+):", (ROOT / "Makefile").read_text())
    targets = {target for line in known for target in line.split()}
    assert len(scripts) > 15
    for script in scripts:
        make, *words = script.split()
        assert make == "make"
        assert {word for word in words if not word.startswith("ARGS=")} <= targets, script
