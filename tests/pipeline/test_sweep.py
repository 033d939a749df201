"""Sweeps with the real DVC and the real Optuna: killed, continued, pruned, promoted."""

import json
import shutil
import signal
import sqlite3
from dataclasses import replace
from typing import Any

import psutil
import pytest
import yaml

from signs.errors import UserError
from signs.scale import trial

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SWEEP: dict[str, Any] = {
    "metric": "validation_loss",
    "trials": 2,
    "pruner": "none",
    "settings": {"train.compact.epochs": 8, "train.compact.steps_per_epoch": 2},
    "space": {"train.compact.learning_rate": {"low": 0.00001, "high": 0.01, "log": True}},
}


def test_a_killed_sweep_continues_and_the_gate_decides_on_its_winner(done):
    # Four photos prove nothing about calibration, nor a busy machine about time.
    done.set(**{"gate.max_ece": 1.0, "gate.max_latency_ratio": 1000.0, "gate.max_model_mb": 0.1})
    done.path("sweeps/tiny.yaml").write_text(yaml.safe_dump(SWEEP))
    command = ("python", "-m", "signs", "sweep", "sweeps/tiny.yaml")
    done.run(*command).fails_with("Commit or remove", "sweeps/tiny.yaml")
    done.commit("Describe a sweep")
    done.run(*command, "--push").fails_with("origin")
    done.run(*command, "--promote").fails_with("No trial of tiny is complete yet.")
    assert not done.run("git", "for-each-ref", "refs/exps").succeeds()

    running = done.start(*command)
    running.wait_until(lambda: done.path(".sweeps/tiny/tiny-000").exists())
    done.run(*command).fails_with("The sweep tiny is running already.")
    # The first epoch's checkpoint exists now. Everything ends at once, as in a power cut.
    running.wait_until(lambda: "tiny-000  epoch 2" in running.text)
    for process in psutil.Process(running.process.pid).children(recursive=True):
        process.kill()
    running.signal(signal.SIGKILL)
    running.wait()
    text = done.run(*command).succeeds()
    assert "0 trials are done, 1 unfinished." in text
    assert "tiny-000  epoch 1" not in text
    # The first epoch was not trained again.
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
        # No test photo was used, and no metrics of another classifier pass for the trial's.
        assert "metrics/evaluate/" not in held
    shown = json.loads(done.dvc("exp", "show", "--json").succeeds())
    trials = [experiment["revs"][0]["data"] for experiment in shown[1]["experiments"]]
    measured = [trial["metrics"]["metrics/train/metrics.json"]["data"] for trial in trials]
    losses = [metrics["best"]["validation_loss"] for metrics in measured]
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
    winner = trials[losses.index(min(losses))]["params"]["params.yaml"]["data"]
    best = winner["train"]["compact"]["learning_rate"]
    assert used["train"]["compact"]["learning_rate"] == pytest.approx(best)

    done.path("sweeps/tiny.yaml").write_text(yaml.safe_dump(SWEEP | {"seed": 2}))
    done.commit("Change the sweep")
    done.run(*command).fails_with("has changed since its first trial")


def test_a_trial_alone_is_pruned_or_fails(done, tmp_path, monkeypatch):
    for name in ("PATH", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, done.environment[name])
    # A data set that DVC does not track is there, too.
    shutil.copytree(done.path("data/tiny"), done.path("data/mine"))
    folder, log, cache = tmp_path / "trial", tmp_path / "log", done.path(".dvc/cache")
    task = trial.Trial(
        name="alone",
        source=str(done.folder),
        commit=done.run("git", "rev-parse", "HEAD").text.strip(),
        settings={"dataset": "mine", "train.compact.epochs": 50},
        metric="validation_accuracy",
        cores=1,
    )
    trial.prepare(task, folder, cache)
    seen: list[float] = []

    def prune(curve: list[float]) -> bool:
        seen[:] = curve
        return len(curve) >= 2

    with log.open("wb") as file:
        result = trial.run(task, folder, prune, file)
    assert result.state == "pruned", log.read_text()
    assert result.reference.endswith("/alone")
    assert 2 <= result.metrics["epochs"] < 50
    assert result.metrics["validation_accuracy"] in seen
    # The source has the experiment, with what was trained until then.
    shown = done.run("git", "show", f"{result.reference}:params.yaml").succeeds()
    assert yaml.safe_load(shown)["train"]["compact"]["epochs"] == 50
    loss = "metrics/train/plots/metrics/validation/loss.tsv"
    curve = done.run("git", "show", f"{result.reference}:{loss}").succeeds()
    assert len(curve.splitlines()) == 1 + result.metrics["epochs"]

    trial.set_params(folder, {"dataset": "absent"})
    with log.open("wb") as file:
        result = trial.run(replace(task, name="fails"), folder, lambda _: False, file)
    assert result == trial.Result("fail", "", {})
    assert "data/absent" in log.read_text()
    with pytest.raises(UserError, match="git clone"):
        trial.prepare(replace(task, source=str(tmp_path / "nowhere")), tmp_path / "other", cache)
