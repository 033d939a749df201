"""A sweep on two hosts that share the git server and the S3 bucket alone, and die in the middle."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import (
    BUCKET,
    RAY_PORT,
    TEMP,
    Cluster,
    Host,
    give_key,
    join_ray,
    serve_git,
    start_head,
    wait_until,
)
from tests.pipeline.conftest import Project, blank  # noqa: F401

pytestmark = pytest.mark.timeout(1800)

TRIALS = 5
SWEEP = {
    "metric": "validation_loss",
    "trials": TRIALS,
    "pruner": "none",
    "settings": {"train.compact.epochs": 12, "train.compact.steps_per_epoch": 2},
    "space": {"train.compact.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}},
}
FOLDER = f"{TEMP}/project"
ROOT = Path(__file__).parents[2]


def put(folder: Path, host: Host) -> None:
    """Copy a folder to a host's own disk, as the project."""
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as packed:
        host.run("mkdir", FOLDER)
        unpack = host.command("tar", "-C", FOLDER, "-x")
        subprocess.run(unpack, stdin=packed.stdout, check=True)


def do(host: Host, *command: str) -> str:
    return host.run("env", "-C", FOLDER, *command)


def states(host: Host) -> list[list[object]]:
    script = (
        "import json, sqlite3; base = sqlite3.connect('.sweeps/tiny/study.db');"
        "print(json.dumps(base.execute('SELECT number, state FROM trials').fetchall()))"
    )
    return json.loads(do(host, "python", "-c", script))


def trains(host: Host) -> bool:
    listed = host.run("ps", "-e", "--no-headers", "-o", "args")
    return "-m stages.train" in listed


def test_a_host_with_another_package_gets_no_trial(cluster: Cluster) -> None:
    head, worker = cluster.add_host(), cluster.add_host()
    start_head(head)
    worker.run("mkdir", "-p", "other/keras-3.0.0.dist-info")
    name = "other/keras-3.0.0.dist-info/METADATA"
    worker.run(
        "sh", "-c", f"cat > {name}", text="Metadata-Version: 2.1\nName: keras\nVersion: 3.0.0\n"
    )
    join_ray(worker, head, PYTHONPATH=f"{TEMP}/other")
    connect = "from signs.scale.cluster import Cluster; Cluster('no address', 'no commit', 1)"
    variables = [f"RAY_ADDRESS={head.address}:{RAY_PORT}", f"PYTHONPATH={ROOT}"]
    driver = head.start("env", "-C", ROOT, *variables, "python", "-c", connect)
    assert driver.wait(180) == 1
    assert "On the host host2: keras 3.0.0 (here 3." in head.log()
    assert "`make setup-ray` there" in head.log()


def test_hosts_die_and_every_trial_is_there_once(
    ray_cluster: Cluster,
    blank: Project,  # noqa: F811
) -> None:
    switch, head, worker = ray_cluster.hosts
    address = serve_git(ray_cluster)
    put(blank.folder, head)
    do(head, "dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    do(head, "sh", "-c", "cat > sweeps/tiny.yaml << 'E'\n" + yaml.safe_dump(SWEEP) + "E")
    do(head, "git", "remote", "add", "origin", address)
    # The arrays are made once, here; all trials find them in the remote.
    do(head, "dvc", "repro", "preprocess")
    do(head, "git", "add", "--all")
    do(head, "git", "commit", "--quiet", "--message", "Share by S3")
    sweep = ["env", "-C", FOLDER, f"RAY_ADDRESS={head.address}:{RAY_PORT}"]
    sweep += ["python", "-m", "signs.scale.sweep", "sweeps/tiny.yaml", "--ray"]

    assert head.start(*sweep).wait(120) == 1
    assert "to origin first" in head.log()
    do(head, "git", "push", "--quiet", "origin", "main")
    do(head, "dvc", "push", "--quiet", "--run-cache", "tiny.dvc", "synthesize", "preprocess")

    # First the worker's host.
    running = head.start(*sweep)
    assert wait_until(lambda: trains(worker) and "epoch 2" in head.log(), 240), head.log()
    worker.kill()
    assert running.poll() is None, head.log()
    assert wait_until(lambda: [0, "COMPLETE"] in states(head), 240), head.log()

    # Then, beside a new host, all that the head runs: Ray, and the sweep.
    other = ray_cluster.add_host()
    assert running.poll() is None, head.log()
    head.end_processes()
    assert len(states(head)) < TRIALS or "RUNNING" in str(states(head))
    start_head(head)
    give_key(ray_cluster, other)
    join_ray(other, head)
    again = head.start(*sweep)
    assert again.wait(900) == 0, head.log()

    assert states(head) == [[number, "COMPLETE"] for number in range(TRIALS)]
    names = [f"tiny-{number:03d}" for number in range(TRIALS)]
    for listed in (
        switch.run("git", "-C", "project.git", "for-each-ref", "--format=%(refname)", "refs/exps"),
        do(head, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/tiny-*"),
    ):
        assert sorted(line.rpartition("/")[2] for line in listed.split()) == names
    # Someone else gets the classifier of each.
    other.run("git", "clone", "--quiet", address, FOLDER)
    do(other, "git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    for reference in listed.split():
        do(other, "git", "checkout", "--quiet", "--force", reference)
        do(other, "dvc", "pull", "--quiet", "train")
        about = json.loads(do(other, "cat", "models/classifier/classifier.json"))
        used = yaml.safe_load(do(other, "cat", "params.yaml"))["train"]["compact"]
        assert about["provenance"]["params"]["recipe"]["learning_rate"] == used["learning_rate"]
