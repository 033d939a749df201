"""Sweeps with the real DVC and the real Ray Tune: killed, continued, pruned, failed, promoted."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

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
    running.wait_until(lambda: "tiny-000  epoch 1" in running.text)
    done.run(*COMMAND).fails_with("The sweep tiny is running already.")
    # Everything ends at once, as in a power cut.
    running.wait_until(lambda: "tiny-000  epoch 3" in running.text)
    family = psutil.Process(running.process.pid).children(recursive=True)
    for process in family:
        process.kill()
    running.signal(signal.SIGKILL)
    running.wait()
    psutil.wait_procs(family, 20)

    # Then with Ctrl-C, when the trial has gone on.
    again = done.start(*COMMAND)
    again.wait_until(lambda: "tiny-001  epoch 2" in again.text)
    again.signal(signal.SIGINT)
    assert again.wait().rc == 130
    assert "Give the same command again to continue." in again.text
    assert "tiny-000  epoch 1" not in again.text
    assert again.leaves_nothing_behind()
    # No epoch was trained again, but those after the last checkpoint that Tune knew of.
    assert "An unfinished training goes on after its epoch" in logs(done, "tiny-000")
    assert logs(done, "tiny-000").count("epoch   1/6") == 1

    text = done.run(*COMMAND).succeeds()
    assert "tiny-000" not in text.partition("Best: ")[0]
    assert logs(done, "tiny-001").count("epoch   1/6") == 1
    assert list(references(done)) == ["tiny-000", "tiny-001"]
    for name in references(done).values():
        held = done.run("git", "ls-tree", "-r", "--name-only", name).succeeds()
        assert "metrics/train/metrics.json" in held
        assert "metrics/train/plots/metrics/validation/loss.tsv" in held
        # No test photo was used, and no metrics of another classifier pass for the trial's.
        assert "metrics/evaluate/" not in held
    shown = json.loads(done.dvc("exp", "show", "--json").succeeds())
    trials = [experiment["revs"][0]["data"] for experiment in shown[1]["experiments"]]
    measured = [trial["metrics"]["metrics/train/metrics.json"]["data"] for trial in trials]
    losses = [metrics["best"]["validation_loss"] for metrics in measured]
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
    assert "tiny-002  complete" in text
    assert "tiny-001  " not in text.partition("Best: ")[0]
    describe(done, trials=3, seed=2)
    done.run(*COMMAND).fails_with("has changed since its first trial")


def test_trials_are_pruned_or_fail_and_a_pruned_one_goes_on(done):
    # A data set that DVC does not track is there, too.
    photos = done.path("data/tiny").rename(done.path("data/mine"))
    assert photos.exists()
    settings = {"dataset": "mine", "train.compact.epochs": 4, "train.compact.steps_per_epoch": 4}
    space = {RATE: [0.003, 0.00001], "train.start": ["none", "absent"]}
    describe(
        done, pruner="asha", sampler="random", seed=SEED, trials=4, settings=settings, space=space
    )
