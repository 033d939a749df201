"""Experiments as the documentation shows them: one with a changed parameter, queues of them."""

import json
import time
from typing import Any

import pytest

from signs.commands import dvc
from tests.harness import ROOT, copy_checkout
from tests.pipeline.conftest import TINY, Project

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

METRICS = "metrics/evaluate/metrics.json"


def experiments(project) -> dict[str, dict[str, Any]]:
    """Name → parameters and metrics of all experiments, as `dvc exp show` knows them."""
    shown = json.loads(project.dvc("exp", "show", "--json").succeeds())
    return {
        experiment["name"]: experiment["revs"][-1]["data"]
        for baseline in shown
        for experiment in baseline["experiments"] or []
    }


def run_the_queue(project) -> None:
    """Start a worker and wait for it; start another if it ends before the queue is empty."""
    without_worker = 0
    project.dvc("queue", "start").succeeds()
    for _ in range(1000):
        status = project.dvc("queue", "status").succeeds()
        if "Queued" not in status and "Running" not in status:
            break
        # A worker takes some seconds to show up; a second one beside it would train twice.
        without_worker = without_worker + 1 if "0 active, 0 idle" in status else 0
        if without_worker == 20:
            project.dvc("queue", "start").succeeds()
            without_worker = 0
        time.sleep(2)
    assert status.count("Success") == 4, status


def test_an_experiment_and_a_queue_over_two_parameters(done, stages_in):
    done.dvc("exp", "run", "--name", "single", "-S", "train.seed=2").succeeds()
    assert stages_in(done.notes()) == ["train", "evaluate", "report"]
    found = experiments(done)
    assert found["single"]["params"]["params.yaml"]["data"]["train"]["seed"] == 2
    assert 0 <= found["single"]["metrics"][METRICS]["data"]["accuracy"] <= 1

    try:
        done.dvc(
            *("exp", "run", "--queue", "-S", "train.seed=2,3", "-S", "evaluate.mistakes_shown=4,5")
        ).succeeds()
        run_the_queue(done)
    finally:
        done.dvc("queue", "stop", "--kill")
    stages = stages_in(done.notes())
    assert stages.count("evaluate") == 4
    assert stages.count("train") <= 2  # seed 2 was trained by the experiment above
    queued = [data for name, data in experiments(done).items() if name != "single"]
    assert len(queued) == 4
    for data in queued:
        assert 0 <= data["metrics"][METRICS]["data"]["accuracy"] <= 1
    params = [data["params"]["params.yaml"]["data"] for data in queued]
    combinations = {(p["train"]["seed"], p["evaluate"]["mistakes_shown"]) for p in params}
    assert combinations == {(2, 4), (2, 5), (3, 4), (3, 5)}


@pytest.mark.real_data
def test_a_queue_of_four_on_the_real_photos_of_signs_runs_to_its_end(tmp_path):
    cache = dvc("cache", "dir", at=ROOT).strip()
    project = Project(tmp_path / "clone")
    copy_checkout(project.folder, ("dvc.lock", "metrics/", "tests/"))
    project.set(**TINY | {"dataset": "signs", "preprocess.split.folds": 10})
    project.path(".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
    project.run("git", "init", "--quiet", "-b", "main").succeeds()
    if project.dvc("checkout", "data.dvc").rc:
        pytest.skip("data/signs is absent")
    project.commit("Start with the photos of signs")
    lists = ("train.compact.learning_rate=0.003,0.01", "train.compact.weight_decay=0.001,0.02")
    options = [word for each in lists for word in ("-S", each)]
    try:
        project.dvc("exp", "run", "--queue", *options, "train").succeeds()
        run_the_queue(project)
    finally:
        project.dvc("queue", "stop", "--kill")
    found = experiments(project).values()
    recipes = [each["params"]["params.yaml"]["data"]["train"]["compact"] for each in found]
    assert sorted((each["learning_rate"], each["weight_decay"]) for each in recipes) == [
        (0.003, 0.001),
        (0.003, 0.02),
        (0.01, 0.001),
        (0.01, 0.02),
    ]
    for each in found:
        metrics = each["metrics"]["metrics/train/metrics.json"]["data"]["validation"]
        assert 0 <= metrics["accuracy"] <= 1
    # No test photo was used.
    stages = [line for line in project.notes() if line.startswith("-m stages.")]
    assert stages.count("-m stages.train") == 4
    assert stages.count("-m stages.evaluate") == 0
