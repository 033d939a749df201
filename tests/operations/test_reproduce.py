"""What counts as reproduced."""

import copy

import pytest

from signs.errors import UserError
from signs.operations.reproduce import compare
from signs.params import Verify
from signs.paths import TIMING

LOCK = {
    "preprocess": {
        "deps": [{"path": "data/photos", "md5": "p"}, {"path": "signs/data/images.py", "md5": "i"}],
        "outs": [{"path": "data/prepared", "md5": "d"}],
    },
    "train": {
        "deps": [{"path": "data/prepared", "md5": "d"}],
        "params": {"params.yaml": {"train.seed": 1}},
        "outs": [{"path": "models", "md5": "m"}, {"path": str(TIMING), "md5": "t"}],
    },
}
METRICS = {"accuracy": 0.95, "ece": 0.01, "ood_rejection_rate": 0.9}
LIMITS = Verify(tolerance=0.02, ood_tolerance=0.1)
WIDE = Verify(tolerance=0.5, ood_tolerance=0.5)


def changed(stage, kind, place):
    lock = copy.deepcopy(LOCK)
    lock[stage][kind][place]["md5"] = "another"
    return lock


def test_the_same_is_reproduced(capsys):
    compare(LOCK, changed("train", "outs", 1), METRICS, METRICS, None)
    assert capsys.readouterr().out.count("same bytes") == 2


def test_the_first_stage_that_differs_is_named(capsys):
    with pytest.raises(UserError, match=r"what differs first is models of train\. The metrics are"):
        compare(LOCK, changed("train", "outs", 0), METRICS, METRICS, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["preprocess   same bytes", "train        differs: models"]


@pytest.mark.parametrize(
    ("committed", "limits", "message"),
    [
        (METRICS | {"accuracy": 0.96}, None, r"is no output\. accuracy: 0.96 committed, 0.95 now"),
        ({"accuracy": 0.95}, None, "ece: None committed"),
        (METRICS | {"ece": float("nan")}, WIDE, "ece: nan committed"),
        (METRICS | {"accuracy": 0.92}, LIMITS, "accuracy: 0.92 committed"),
        (METRICS | {"ood_rejection_rate": 0.7}, LIMITS, "ood_rejection_rate: 0.7 committed"),
    ],
)
def test_metrics_that_no_run_made_are_named(committed, limits, message):
    with pytest.raises(UserError, match=message):
        compare(LOCK, LOCK, committed, METRICS, limits)


def test_another_processor_may_differ_a_little(capsys):
    other = changed("train", "outs", 0)
    compare(LOCK, other, METRICS | {"accuracy": 0.94, "ood_rejection_rate": 0.82}, METRICS, LIMITS)
    said = capsys.readouterr().out
    assert "train        within tolerance on another processor: models\n" in said
    assert "preprocess   same bytes" in said


@pytest.mark.parametrize("place", [0, 1])
def test_a_lock_of_other_code_or_photos_is_stale(place):
    path = LOCK["preprocess"]["deps"][place]["path"]
    with pytest.raises(UserError, match=f"preprocess was run with another {path}"):
        compare(changed("preprocess", "deps", place), LOCK, METRICS, METRICS, LIMITS)


def test_a_lock_of_other_parameters_is_stale():
    other = copy.deepcopy(LOCK)
    other["train"]["params"]["params.yaml"]["train.seed"] = 2
    with pytest.raises(UserError, match=r"train was run with another params\.yaml"):
        compare(other, LOCK, METRICS, METRICS, LIMITS)
