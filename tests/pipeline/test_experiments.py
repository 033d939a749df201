"""Experiments as the README shows them: one with a changed parameter, then a queue of them."""

import json
import time
from typing import Any

import pytest

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
