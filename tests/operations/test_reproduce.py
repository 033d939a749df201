"""What counts as reproduced."""

import copy

import pytest

from signs.errors import UserError
from signs.operations.reproduce import compare
from signs.paths import TIMING

LOCK = {
    "preprocess": {
        "deps": [{"path": "data/photos", "md5": "p"}, {"path": "signs/data/images.py", "md5": "i"}],
        "outs": [{"path": "data/prepared", "md5": "d"}],
    },
    "train": {
        "deps": [{"path": "data/prepared", "md5": "d"}],
        "outs": [{"path": "models", "md5": "m"}, {"path": str(TIMING), "md5": "t"}],
    },
}
METRICS = {"accuracy": 0.95, "ece": 0.01}


def changed(stage, kind, place):
    lock = copy.deepcopy(LOCK)
    lock[stage][kind][place]["md5"] = "another"
    return lock


def test_the_same_is_reproduced(capsys):
    compare(LOCK, changed("train", "outs", 1), METRICS, METRICS, 0.0)
    assert capsys.readouterr().out.count("same bytes") == 2


def test_the_first_stage_that_differs_is_named(capsys):
    with pytest.raises(UserError, match=r"what differs first is models of train\. The metrics are"):
        compare(LOCK, changed("train", "outs", 0), METRICS, METRICS, 0.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["preprocess   same bytes", "train        differs: models"]


@pytest.mark.parametrize(
    ("committed", "tolerance", "message"),
    [
        (METRICS | {"accuracy": 0.96}, 0.0, r"is no output\. accuracy: 0.96 committed, 0.95 now"),
        ({"accuracy": 0.95}, 0.0, "ece: None committed"),
        (METRICS | {"ece": float("nan")}, 0.5, "ece: nan committed"),
        (METRICS | {"accuracy": 0.92}, 0.02, "accuracy: 0.92 committed"),
    ],
)
def test_metrics_that_no_run_made_are_named(committed, tolerance, message):
    with pytest.raises(UserError, match=message):
        compare(LOCK, LOCK, committed, METRICS, tolerance)


def test_another_processor_may_differ_a_little(capsys):
    other = changed("train", "outs", 0)
    compare(LOCK, other, METRICS | {"accuracy": 0.94}, METRICS, 0.02)
    said = capsys.readouterr().out
    assert "train        within tolerance on another processor: models\n" in said
    assert "preprocess   same bytes" in said


@pytest.mark.parametrize("place", [0, 1])
def test_a_lock_of_other_code_or_photos_is_stale(place):
    path = LOCK["preprocess"]["deps"][place]["path"]
    with pytest.raises(UserError, match=f"preprocess was run with another {path}"):
        compare(changed("preprocess", "deps", place), LOCK, METRICS, METRICS, 0.02)
