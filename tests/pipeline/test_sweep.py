"""Sweeps with the real DVC and the real Ray Tune: killed, continued, pruned, failed, promoted."""

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import Any

import psutil
import pytest
import yaml

from tests.harness import Ray

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

RATE = "train.compact.learning_rate"
SWEEP: dict[str, Any] = {
    "metric": "validation_loss",
    "trials": 2,
    "pruner": "none",
    "settings": {"train.compact.epochs": 6, "train.compact.steps_per_epoch": 2},
    "space": {RATE: {"low": 0.00001, "high": 0.01, "log": True}},
}
COMMAND = ("python", "-m", "signs", "sweep", "sweeps/tiny.yaml")


def describe(project, **changes: Any) -> None:
    project.path("sweeps/tiny.yaml").write_text(yaml.safe_dump(SWEEP | changes))
    project.commit("Describe a sweep")


def references(project) -> dict[str, str]:
    """Name → git reference of all experiments."""
    listed = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").succeeds()
    return {name.rpartition("/")[2]: name for name in listed.split()}


def epochs_kept(project, trial: str) -> int:
    """The number of epochs after which Tune last kept the state."""
    states = project.path(f".sweeps/tiny/{trial}").glob("checkpoint_*/progress.json")
    return max((int(state.parent.name[-6:]) + 1 for state in states), default=0)


def logs(project, trial: str) -> str:
    files = sorted(project.path(f".sweeps/tiny/{trial}").glob("*.log"))
    return "".join(file.read_text() for file in files)


def test_a_killed_sweep_continues_and_the_gate_decides_on_its_winner(done):
    # Four photos prove nothing about calibration, nor a busy machine about time.
    done.set(**{"gate.max_ece": 1.0, "gate.max_latency_ratio": 1000.0, "gate.max_model_mb": 0.1})
    done.path("sweeps/tiny.yaml").write_text(yaml.safe_dump(SWEEP))
    done.run(*COMMAND).fails_with("Commit or remove", "sweeps/tiny.yaml")
    describe(done)
    done.run(*COMMAND, "--push").fails_with("origin")
    done.run(*COMMAND, "--promote").fails_with("No trial of tiny is complete yet.")
    assert not references(done)

    running = done.start(*COMMAND)
    running.wait_until(lambda: "Trial tiny-000 started" in running.text)
    done.run(*COMMAND).fails_with("The sweep tiny is running already.")
    # Everything ends at once, as in a power cut.
    running.wait_until(lambda: epochs_kept(done, "tiny-000") >= 2)
    family = psutil.Process(running.process.pid).children(recursive=True)
    for process in family:
        process.kill()
    running.signal(signal.SIGKILL)
    running.wait()
    psutil.wait_procs(family, 20)

    # Then with Ctrl-C, when the trial has gone on.
    again = done.start(*COMMAND)
    again.wait_until(lambda: epochs_kept(done, "tiny-001") >= 2)
    again.signal(signal.SIGINT)
    assert again.wait().rc == 130
    assert "Give the same command again to continue." in again.text
    assert "Trial tiny-000 completed after 7 iterations" in again.text
    assert again.leaves_nothing_behind()
    # No epoch was trained again. The log of what was killed may be lost.
    assert "An unfinished training goes on after its epoch" in logs(done, "tiny-000")
    assert logs(done, "tiny-000").count("epoch   1/6") <= 1

    text = done.run(*COMMAND).succeeds()
    assert "Trial tiny-000 " not in text
    assert logs(done, "tiny-001").count("epoch   1/6") <= 1
    assert list(references(done)) == ["tiny-000", "tiny-001"], again.text + text
    for name in references(done).values():
        held = done.run("git", "ls-tree", "-r", "--name-only", name).succeeds()
        assert "metrics/train/metrics.json" in held
        assert "metrics/train/plots/metrics/validation/loss.tsv" in held
        # No test photo was used, and no metrics of another classifier pass for the trial's.
        assert "metrics/evaluate/" not in held
    shown = json.loads(done.dvc("exp", "show", "--json").succeeds())
    trials = [experiment["revs"][0]["data"] for experiment in shown[1]["experiments"]]
    measured = [trial["metrics"]["metrics/train/metrics.json"]["data"] for trial in trials]
    losses = [metrics["validation"]["loss"] for metrics in measured]
    assert len(losses) == 2
    assert f"validation_loss {min(losses):.4f}" in text.rpartition("Best: ")[2]
    assert not list(done.path(".sweeps/.clones").iterdir())
    assert "Give the same" not in done.run(*COMMAND, "--report").succeeds()

    before = done.run("git", "rev-parse", "HEAD").text
    done.run(*COMMAND, "--promote", "7").fails_with("There is no trial tiny-007.")
    done.run(*COMMAND, "--promote").fails_with("is not promoted", "REFUSED")
    assert not done.run("git", "status", "--porcelain").succeeds()
    assert done.run("git", "rev-parse", "HEAD").text == before
    done.set(**{"gate.max_model_mb": 100.0})
    done.commit("Allow larger models")
    done.run(*COMMAND, "--promote").succeeds()
    assert "settings of trial tiny-00" in done.run("git", "log", "-1", "--format=%s").text
    used = yaml.safe_load(done.path("params.yaml").read_text())
    winner = trials[losses.index(min(losses))]["params"]["params.yaml"]["data"]
    best = winner["train"]["compact"]["learning_rate"]
    assert used["train"]["compact"]["learning_rate"] == pytest.approx(best)

    # More trials of the same sweep, but no other sweep.
    describe(done, trials=3)
    text = done.run(*COMMAND).succeeds()
    assert "Trial tiny-002 completed" in text
    assert "Trial tiny-001 " not in text
    describe(done, trials=3, seed=2)
    done.run(*COMMAND).fails_with("has changed since its first trial")


def test_trials_are_pruned_or_fail_and_a_pruned_one_goes_on(done):
    # A data set that DVC does not track is there, too.
    done.path("data/tiny").rename(done.path("data/mine"))
    networks = done.path("signs/training/networks.py")
    code = networks.read_text(encoding="utf-8")
    assert "Rescaling(1 / 127.5" in code
    scale = "Rescaling(1e38 if width == 16 else 1 / 127.5"
    networks.write_text(code.replace("Rescaling(1 / 127.5", scale), encoding="utf-8")
    settings = {"dataset": "mine", "train.compact.epochs": 12, "train.compact.steps_per_epoch": 4}
    describe(
        done,
        pruner="asha",
        sampler="random",
        seed=6,  # a good rate, a poor one, and one that diverges because of the line above
        trials=3,
        settings=settings,
        space={RATE: [0.003, 0.00001], "train.compact.width": [12, 16]},
    )
    # Ctrl-C twice ends it at once.
    running = done.start(*COMMAND)
    running.wait_until(lambda: epochs_kept(done, "tiny-000") >= 1)
    running.signal(signal.SIGINT)
    time.sleep(0.5)
    with contextlib.suppress(ProcessLookupError):
        running.signal(signal.SIGINT)
    assert running.wait().rc == 130
    text = done.run(*COMMAND).succeeds()
    assert logs(done, "tiny-000").count("epoch   1/12") <= 1
    assert "tiny-002 failed: " in text
    assert "The loss is not a number any more in epoch 1" in text
    assert "1 complete, 1 pruned, 1 fail" in text
    assert list(references(done)) == ["tiny-000", "tiny-001"]
    shown = done.run("git", "show", f"{references(done)['tiny-001']}:params.yaml").succeeds()
    assert yaml.safe_load(shown)["train"]["compact"]["learning_rate"] == 0.00001
    loss = "metrics/train/plots/metrics/validation/loss.tsv"
    curve = done.run("git", "show", f"{references(done)['tiny-001']}:{loss}").succeeds()
    assert 2 <= len(curve.splitlines()) < 13
    # Nothing is left to do, and what failed does not run again.
    assert "Trial tiny-002 " not in done.run(*COMMAND).succeeds()
    done.run(*COMMAND, "--promote", "1").fails_with(
        "An unfinished training goes on after", "is not promoted"
    )
    assert not done.run("git", "status", "--porcelain").succeeds()


def test_several_metrics_and_folds_share_the_machine(done):
    describe(
        done,
        metric=["validation_accuracy", "megabytes"],
        folds=2,
        cores_per_trial=1,
        settings={"train.compact.epochs": 1, "train.compact.steps_per_epoch": 2},
        space={"train.compact.width": [8, 16], RATE: [0.001, 0.003]},
    )
    text = done.run(*COMMAND).succeeds()
    assert "2 complete" in text
    names = [f"tiny-00{trial}-fold{fold}" for trial in (0, 1) for fold in (0, 1)]
    found = references(done)
    assert list(found) == names
    accuracies = []
    for fold, name in enumerate(names[:2]):
        used = yaml.safe_load(done.run("git", "show", f"{found[name]}:params.yaml").text)
        assert used["preprocess"]["split"]["fold"] == fold
        metrics = done.run("git", "show", f"{found[name]}:metrics/train/metrics.json").text
        accuracies.append(json.loads(metrics)["validation"]["accuracy"])
    page = done.path(".sweeps/tiny.html").read_text()
    assert f">{sum(accuracies) / 2:.4g}</td>" in page
    done.run(*COMMAND, "--promote").fails_with("Name the trial", "--promote 3", "tiny-00")


def test_trials_on_a_cluster_share_a_gpu_and_send_what_they_trained(done, tmp_path):
    # Ray believes in this GPU, and TensorFlow finds none.
    ray = Ray(tmp_path, cores=2, gpus=1, environment=done.environment)
    origin, remote = tmp_path / "origin.git", tmp_path / "remote"
    done.environment |= {"HOME": str(done.home), "RAY_ADDRESS": ray.cluster}
    done.dvc("remote", "add", "--default", "store", str(remote)).succeeds()
    describe(done, gpus_per_trial=0.5, cores_per_trial=1, storage=str(tmp_path / "state"))
    done.run("git", "init", "--quiet", "--bare", str(origin)).succeeds()
    done.run("git", "remote", "add", "origin", str(origin)).succeeds()
    ray.start()
    try:
        done.run(*COMMAND).fails_with("to origin first")
        done.run("git", "push", "--quiet", "origin", "main").succeeds()
        done.dvc("push", "--quiet", "--run-cache").succeeds()
        running = done.start(*COMMAND)
        running.wait_until(lambda: trainings(done))
        assert trainings(done) == {("0", "true", "1")}
        running.wait().succeeds()
        # Nothing is left to do, also with what the storage has.
        assert "2 complete" in done.run(*COMMAND).succeeds()
    finally:
        ray.kill()
    assert list(references(done)) == ["tiny-000", "tiny-001"]
    sent = done.run("git", "ls-remote", str(origin), "refs/exps/*").succeeds()
    assert sorted(line.rpartition("/")[2] for line in sent.splitlines()) == list(references(done))
    for reference in references(done).values():
        text = done.run("git", "show", f"{reference}:dvc.lock").succeeds()
        (model,) = [
            out
            for out in yaml.safe_load(text)["stages"]["train"]["outs"]
            if out["path"] == "models/model.onnx"
        ]
        assert (remote / "files/md5" / model["md5"][:2] / model["md5"][2:]).exists()


def trainings(project) -> set[tuple[str, str, str]]:
    """What the trainings in this project's clones are told: GPU, memory, threads."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if (process.info["cmdline"] or [])[-2:] == ["-m", "stages.train"]:
                told = process.environ()
                names = ("CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH", "OMP_NUM_THREADS")
                if told.get("HOME") == str(project.home):
                    found.add(tuple(told.get(name, "") for name in names))
    return found


def test_a_machine_that_lacks_what_a_trial_needs_is_named(done):
    describe(done, cores_per_trial=512)
    done.run(*COMMAND).fails_with("No host gives Ray the 512 CPU of a trial", "'CPU': ")
    describe(done, gpus_per_trial=64)
    done.run(*COMMAND).fails_with("No host gives Ray the", "64 GPU of a trial", "'GPU': ")
    describe(done, storage="/proc/nowhere")
    done.run(*COMMAND).fails_with("The storage of the sweep cannot be written")


def test_a_full_disk_is_an_error_until_there_is_space(done):
    describe(done, trials=3)
    clones = done.path(".sweeps/.clones")
    clones.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(clones)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs root, to mount a small disk")
    try:
        done.run(*COMMAND).fails_with("tiny-000 failed: see error.txt", "3 trials failed in a row")
        why = done.path(".sweeps/tiny/tiny-000/error.txt").read_text()
        assert "No space left" in why or "disk is full" in why
    finally:
        subprocess.run(["umount", "--lazy", str(clones)], check=True)
    assert "3 complete, 0 pruned, 0 fail" in done.run(*COMMAND).succeeds()
