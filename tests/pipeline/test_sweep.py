"""Sweeps with the real DVC and the real Optuna: killed, gone on with, pruned, promoted."""

import json
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from signs.errors import UserError
from signs.scale import trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SWEEP: dict[str, Any] = {
    "metric": "validation_loss",
    "trials": 2,
    "pruner": "none",
    "settings": {"train.compact.epochs": 8, "train.compact.steps_per_epoch": 2},
    "space": {"train.compact.learning_rate": {"low": 0.00001, "high": 0.01, "log": True}},
}


def test_a_killed_sweep_goes_on_and_its_winner_passes_the_gate_or_not(done):
    # Four photos prove nothing about calibration, nor a busy machine about time.
    done.set(**{"gate.max_ece": 1.0, "gate.max_latency_ratio": 1000.0, "gate.max_model_mb": 0.1})
    done.path("sweeps/tiny.yaml").write_text(yaml.safe_dump(SWEEP))
    command = ("python", "-m", "signs.scale.sweep", "sweeps/tiny.yaml")
    done.run(*command).fails_with("Commit or remove", "sweeps/tiny.yaml")
    done.commit("Describe a sweep")
    done.run(*command, "--push").fails_with("origin")
    done.run(*command, "--promote").fails_with("No trial of tiny is complete yet.")
    assert not done.run("git", "for-each-ref", "refs/exps").succeeds()

    running = done.start(*command)
    running.wait_until(lambda: done.path(".sweeps/tiny/tiny-000").exists())
    done.run(*command).fails_with("The sweep tiny is running already.")
    # By then the first epoch's state is kept. All ends at once, as in a power cut.
    running.wait_until(lambda: "tiny-000  epoch 2" in running.text)
    for process in psutil.Process(running.process.pid).children(recursive=True):
        process.kill()
    running.signal(signal.SIGKILL)
    running.wait()
    text = done.run(*command).succeeds()
    assert "0 trials are done, 1 unfinished." in text
    assert "tiny-000  epoch 1" not in text
    # Nor was it trained a second time.
    assert done.path(".sweeps/tiny/tiny-000.log").read_text().count("epoch   1/8") == 1

    names = done.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").succeeds()
    assert [name.rpartition("/")[2] for name in names.split()] == ["tiny-000", "tiny-001"]
    with sqlite3.connect(done.path(".sweeps/tiny/study.db")) as base:
        assert base.execute("SELECT number, state FROM trials").fetchall() == [
            (0, "COMPLETE"),
            (1, "COMPLETE"),
        ]
    for name in names.split():
        held = done.run("git", "ls-tree", "-r", "--name-only", name).succeeds()
        assert "metrics/train/metrics.json" in held
        assert "metrics/train/plots/metrics/validation/loss.tsv" in held
        # Nobody looked at a test photo, and no other classifier's figures pass for the trial's.
        assert "metrics/evaluate/" not in held
    shown = json.loads(done.dvc("exp", "show", "--json").succeeds())
    trials = [found["revs"][0]["data"] for found in shown[1]["experiments"]]
    losses = [
        found["metrics"]["metrics/train/metrics.json"]["data"]["best"]["validation_loss"]
        for found in trials
    ]
    assert len(losses) == 2
    assert f"validation_loss {min(losses):.4f}" in text.rpartition("Best: ")[2]
    assert not list(done.path(".sweeps/tiny").glob("tiny-000/"))

    before = done.run("git", "rev-parse", "HEAD").text
    done.run(*command, "--promote").fails_with("is not promoted", "REFUSED")
    assert not done.run("git", "status", "--porcelain").succeeds()
    assert done.run("git", "rev-parse", "HEAD").text == before
    done.set(**{"gate.max_model_mb": 100.0})
    done.commit("Allow larger models")
    done.run(*command, "--promote").succeeds()
    assert "settings of trial tiny-00" in done.run("git", "log", "-1", "--format=%s").text
    used = yaml.safe_load(done.path("params.yaml").read_text())
    rates = [found["params"]["params.yaml"]["data"]["train"]["compact"] for found in trials]
    best = rates[losses.index(min(losses))]["learning_rate"]
    assert used["train"]["compact"]["learning_rate"] == pytest.approx(best)

    done.path("sweeps/tiny.yaml").write_text(yaml.safe_dump(SWEEP | {"seed": 2}))
    done.commit("Change the sweep")
    done.run(*command).fails_with("has changed since its first trial")


def test_a_trial_alone_is_pruned_or_fails(done, tmp_path, monkeypatch):
    for name in ("PATH", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, done.environment[name])
    commit = done.run("git", "rev-parse", "HEAD").text.strip()
    # A photo set that DVC does not know comes, too.
    shutil.copytree(done.path("data/tiny"), done.path("data/mine"))
    folder, log = tmp_path / "trial", tmp_path / "log"
    settings = {"dataset": "mine", "train.compact.epochs": 50}
    cache = done.path(".dvc/cache")
    trial.prepare(folder, str(done.folder), commit, settings, cache)
    seen: list[float] = []

    def prune(curve: list[float]) -> bool:
        seen[:] = curve
        return len(curve) >= 2

    with log.open("wb") as file:
        result = trial.run(folder, "alone", "validation_accuracy", prune, file, 1)
    assert result.state == "pruned", log.read_text()
    assert result.reference.endswith("/alone")
    assert 2 <= result.measures["epochs"] < 50
    assert result.measures["validation_accuracy"] in seen
    # The source has it, though nothing was pruned there.
    shown = done.run("git", "show", f"{result.reference}:params.yaml").succeeds()
    assert yaml.safe_load(shown)["train"]["compact"]["epochs"] == 50
    loss = "metrics/train/plots/metrics/validation/loss.tsv"
    curve = done.run("git", "show", f"{result.reference}:{loss}").succeeds()
    assert len(curve.splitlines()) == 1 + result.measures["epochs"]

    trial.set_params(folder, {"dataset": "absent"})
    with log.open("wb") as file:
        result = trial.run(folder, "fails", "validation_loss", lambda _: False, file, 1)
    assert result == trial.Result("fail", "", {})
    assert "data/absent" in log.read_text()
    with pytest.raises(UserError, match="git clone"):
        trial.prepare(tmp_path / "other", str(tmp_path / "nowhere"), commit, {}, Path(cache))
