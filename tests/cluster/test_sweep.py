"""A sweep on hosts that share only git and S3, and that are killed: no trial is lost or done twice.

The S3 server keeps DVC's files and Tune's state.
"""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import TEMP, Cluster, Host, RayCluster, give_key, serve_git, start_ray
from tests.harness import BUCKET, ROOT, S3, wait_until
from tests.pipeline.conftest import Project, blank  # noqa: F401

pytestmark = pytest.mark.timeout(2400)

TRIALS, EPOCHS = 5, 24  # enough that trials are left when the next host is there
SWEEP = {
    "metric": "validation_loss",
    "trials": TRIALS,
    "pruner": "none",
    "cores_per_trial": 1,
    "storage": f"s3://{BUCKET}/sweeps",
    "settings": {"train.compact.epochs": EPOCHS, "train.compact.steps_per_epoch": 40},
    "space": {"train.compact.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}},
}
FOLDER = f"{TEMP}/project"
OUTAGE = 60  # seconds
LIST = """
import botocore.session, sys
s3 = botocore.session.Session().create_client("s3")
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=sys.argv[1], Prefix=sys.argv[2])
print(*(entry["Key"] for page in pages for entry in page.get("Contents", [])), sep="\\n")
"""


def put(folder: Path, host: Host) -> None:
    """Copy a folder to a host's own disk, as the project."""
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as packed:
        host.run("mkdir", FOLDER)
        unpack = [*host.enter, "tar", "-C", FOLDER, "-x"]
        subprocess.run(unpack, stdin=packed.stdout, check=True)


def do(host: Host, *command: str) -> str:
    return host.run("env", "-C", FOLDER, *command)


def stored(cluster: Cluster, trial: str) -> list[str]:
    """Names of what Tune keeps of a trial."""
    prefix = f"sweeps/tiny/{trial}/"
    keys = cluster.switch.run("python", "-c", LIST, BUCKET, prefix).split()
    return [key.removeprefix(prefix) for key in keys]


def epochs_kept(cluster: Cluster, trial: str) -> int:
    states = [name for name in stored(cluster, trial) if name.endswith("/progress.json")]
    return max((1 + int(name.partition("/")[0][-6:]) for name in states), default=0)


def logs(cluster: Cluster, trial: str) -> str:
    """What the pipeline of a trial has printed, on all hosts."""
    read = "import botocore.session, sys; s3 = botocore.session.Session().create_client('s3');"
    read += "print(s3.get_object(Bucket=sys.argv[1], Key=sys.argv[2])['Body'].read().decode())"
    names = [name for name in stored(cluster, trial) if name.endswith(".log")]
    keys = [f"sweeps/tiny/{trial}/{name}" for name in names]
    return "".join(cluster.switch.run("python", "-c", read, BUCKET, key) for key in keys)


def trial_on(host: Host) -> str:
    """The trial that trains on a host; "" if none does."""
    if "-m stages.train" not in host.run("ps", "-e", "--no-headers", "-o", "args"):
        return ""
    return host.run("ls", f"{TEMP}/.cache/traffic-signs/trials").split()[0][: len("tiny-000")]


def test_a_host_with_another_package_gets_no_trial(cluster: Cluster) -> None:
    head, worker = cluster.add_host(), cluster.add_host()
    address = start_ray(head)
    worker.run("mkdir", "-p", "other/keras-3.0.0.dist-info")
    metadata = "Metadata-Version: 2.1\nName: keras\nVersion: 3.0.0\n"
    worker.write("other/keras-3.0.0.dist-info/METADATA", metadata)
    start_ray(worker, address, PYTHONPATH=f"{TEMP}/other")
    connect = "from signs.scale import cluster; cluster.check_hosts(cluster.start(), {'CPU': 1})"
    variables = [f"RAY_ADDRESS={address}", f"PYTHONPATH={ROOT}"]
    driver = head.start("env", "-C", ROOT, *variables, "python", "-c", connect)
    assert driver.wait(180) == 1
    assert "On the host host2: keras 3.0.0 (here 3." in head.log()
    assert "`make setup-ray` there" in head.log()


def prepare(ray_cluster: RayCluster, project: Project) -> str:
    """The project on the head, its data in S3; returns the address of git's server."""
    cluster, head = ray_cluster.cluster, ray_cluster.head
    address = serve_git(cluster)
    put(project.folder, head)
    do(head, "dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    head.write(f"{FOLDER}/sweeps/tiny.yaml", yaml.safe_dump(SWEEP))
    do(head, "git", "remote", "add", "origin", address)
    # The arrays are made once, here; all trials get them from the remote.
    do(head, "dvc", "repro", "preprocess")
    do(head, "git", "add", "--all")
    do(head, "git", "commit", "--quiet", "--message", "Share by S3")
    return address


def test_hosts_and_servers_die_and_every_trial_is_there_once(
    ray_cluster: RayCluster,
    blank: Project,  # noqa: F811
) -> None:
    cluster, head, worker = ray_cluster.cluster, ray_cluster.head, ray_cluster.worker
    address = prepare(ray_cluster, blank)
    sweep = ["env", "-C", FOLDER, f"RAY_ADDRESS={ray_cluster.address}"]
    sweep += ["python", "-m", "signs", "sweep", "sweeps/tiny.yaml"]
    assert head.start(*sweep).wait(120) == 1
    assert "to origin first" in head.log()
    do(head, "git", "push", "--quiet", "origin", "main")
    do(head, "dvc", "push", "--quiet", "--run-cache", "tiny.dvc", "synthesize", "preprocess")

    # The S3 server is gone for a minute.
    running = head.start(*sweep)
    assert wait_until(lambda: trial_on(worker), 300), head.log()
    moved = trial_on(worker)
    assert wait_until(lambda: epochs_kept(cluster, moved) >= 1, 300), head.log()
    (store,) = [server for server in cluster.switch.running if isinstance(server, S3)]
    store.kill()
    time.sleep(OUTAGE)
    store.start()
    assert running.poll() is None, head.log()

    # Then the worker's host dies: its trial goes on elsewhere.
    assert wait_until(lambda: trial_on(worker), 300), head.log()
    moved = trial_on(worker)
    assert wait_until(lambda: epochs_kept(cluster, moved) >= 2, 300), head.log()
    worker.kill()
    other = cluster.add_host()
    give_key(cluster, other)
    start_ray(other, ray_cluster.address)
    assert wait_until(lambda: trial_on(other), 300), head.log()
    assert running.poll() is None, head.log()

    # Then the host where the sweep was started, with its disk.
    def both_are_kept() -> bool:
        trials = [trial_on(host) for host in (head, other)]
        return all(trials) and all(epochs_kept(cluster, trial) >= 2 for trial in trials)

    assert wait_until(both_are_kept, 300), head.log()
    head.kill()
    last = cluster.add_host()
    give_key(cluster, last)
    other.end_processes()
    start = start_ray(last)
    start_ray(other, start)
    last.run("git", "clone", "--quiet", address, FOLDER)
    sweep[3] = f"RAY_ADDRESS={start}"
    assert last.start(*sweep).wait(1200) == 0, last.log()

    names = [f"tiny-{number:03d}" for number in range(TRIALS)]
    for name in names:
        # Each epoch was trained once, but the one that was lost before it was kept.
        log = logs(cluster, name)
        assert log.count(f"epoch   1/{EPOCHS}") <= 1, log
        assert log.count("models/classifier") < 3, log
    assert "An unfinished training goes on after its epoch" in logs(cluster, moved)
    for listed in (
        cluster.switch.run("git", "-C", "project.git", "for-each-ref", "--format=%(refname)"),
        do(last, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/tiny-*"),
    ):
        found = [line.rpartition("/")[2] for line in listed.split() if "refs/exps" in line]
        assert sorted(found) == names
    # Another clone gets the classifier of each trial.
    other.run("git", "clone", "--quiet", address, FOLDER)
    do(other, "git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    for reference in filter(lambda line: "refs/exps" in line, listed.split()):
        do(other, "git", "checkout", "--quiet", "--force", reference)
        do(other, "dvc", "pull", "--quiet", "train")
        metadata = json.loads(do(other, "cat", "models/classifier/classifier.json"))
        used = yaml.safe_load(do(other, "cat", "params.yaml"))["train"]["compact"]
        assert metadata["provenance"]["params"]["recipe"]["learning_rate"] == used["learning_rate"]
