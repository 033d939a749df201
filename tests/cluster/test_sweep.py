"""A sweep on two hosts that share only the git server and an S3 bucket, and that are killed."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import TEMP, Cluster, Host, RayCluster, give_key, serve_git, start_ray
from tests.harness import BUCKET, ROOT, wait_until
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


def put(folder: Path, host: Host) -> None:
    """Copy a folder to a host's own disk, as the project."""
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as packed:
        host.run("mkdir", FOLDER)
        unpack = [*host.enter, "tar", "-C", FOLDER, "-x"]
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
    address = start_ray(head)
    worker.run("mkdir", "-p", "other/keras-3.0.0.dist-info")
    metadata = "Metadata-Version: 2.1\nName: keras\nVersion: 3.0.0\n"
    worker.write("other/keras-3.0.0.dist-info/METADATA", metadata)
    start_ray(worker, address, PYTHONPATH=f"{TEMP}/other")
    connect = "from signs.scale.cluster import Cluster; Cluster(1)"
    variables = [f"RAY_ADDRESS={address}", f"PYTHONPATH={ROOT}"]
    driver = head.start("env", "-C", ROOT, *variables, "python", "-c", connect)
    assert driver.wait(180) == 1
    assert "On the host host2: keras 3.0.0 (here 3." in head.log()
    assert "`make setup-ray` there" in head.log()


def test_hosts_die_and_every_trial_is_there_once(
    ray_cluster: RayCluster,
    blank: Project,  # noqa: F811
) -> None:
    cluster, head, worker = ray_cluster.cluster, ray_cluster.head, ray_cluster.worker
    switch, address = cluster.switch, serve_git(cluster)
    put(blank.folder, head)
    do(head, "dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    head.write(f"{FOLDER}/sweeps/tiny.yaml", yaml.safe_dump(SWEEP))
    do(head, "git", "remote", "add", "origin", address)
    # The arrays are made once, here; all trials get them from the remote.
    do(head, "dvc", "repro", "preprocess")
    do(head, "git", "add", "--all")
    do(head, "git", "commit", "--quiet", "--message", "Share by S3")
    sweep = ["env", "-C", FOLDER, f"RAY_ADDRESS={ray_cluster.address}"]
    sweep += ["python", "-m", "signs", "sweep", "sweeps/tiny.yaml", "--ray"]

    assert head.start(*sweep).wait(120) == 1
    assert "to origin first" in head.log()
    do(head, "git", "push", "--quiet", "origin", "main")
    do(head, "dvc", "push", "--quiet", "--run-cache", "tiny.dvc", "synthesize", "preprocess")

    # First kill the worker's host.
    running = head.start(*sweep)
    assert wait_until(lambda: trains(worker) and "epoch 2" in head.log(), 240), head.log()
    worker.kill()
    assert running.poll() is None, head.log()
    assert wait_until(lambda: [0, "COMPLETE"] in states(head), 240), head.log()

    # Then add a host, and kill all that the head runs: Ray, and the sweep.
    other = cluster.add_host()
    assert running.poll() is None, head.log()
    head.end_processes()
    assert len(states(head)) < TRIALS or "RUNNING" in str(states(head))
    start_ray(head)
    give_key(cluster, other)
    start_ray(other, ray_cluster.address)
    again = head.start(*sweep)
    assert again.wait(900) == 0, head.log()

    assert states(head) == [[number, "COMPLETE"] for number in range(TRIALS)]
    names = [f"tiny-{number:03d}" for number in range(TRIALS)]
    for listed in (
        switch.run("git", "-C", "project.git", "for-each-ref", "--format=%(refname)", "refs/exps"),
        do(head, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/tiny-*"),
    ):
        assert sorted(line.rpartition("/")[2] for line in listed.split()) == names
    # Another clone gets the classifier of each trial.
    other.run("git", "clone", "--quiet", address, FOLDER)
    do(other, "git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    for reference in listed.split():
        do(other, "git", "checkout", "--quiet", "--force", reference)
        do(other, "dvc", "pull", "--quiet", "train")
        metadata = json.loads(do(other, "cat", "models/classifier/classifier.json"))
        used = yaml.safe_load(do(other, "cat", "params.yaml"))["train"]["compact"]
        assert metadata["provenance"]["params"]["recipe"]["learning_rate"] == used["learning_rate"]
