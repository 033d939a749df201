"""What counts as reproduced."""

import copy

import pytest

from signs.errors import UserError
from signs.operations.reproduce import TIMING, compare

LOCK = {
    "preprocess": {
        "deps": [{"path": "data/photos", "md5": "p"}, {"path": "signs/data/images.py", "md5": "i"}],
        "outs": [{"path": "data/prepared", "md5": "d"}],
    },
    "train": {
        "deps": [{"path": "data/prepared", "md5": "d"}],
        "outs": [{"path": "models", "md5": "m"}, {"path": TIMING, "md5": "t"}],
    },
}
METRICS = {"accuracy": 0.95, "ece": 0.01}


def changed(stage, kind, place):
    lock = copy.deepcopy(LOCK)
    lock[stage][kind][place]["md5"] = "another"
    return lock


def test_the_same_is_reproduced(capsys):
    compare(LOCK, changed("train", "outs", 1), METRICS, METRICS, 0.0)
    assert capsys.readouterr().out.count("the same") == 2


def test_the_first_stage_that_differs_is_named(capsys):
    with pytest.raises(UserError, match=r"first stage that differs is train\. The metrics are"):
        compare(LOCK, changed("train", "outs", 0), METRICS, METRICS, 0.0)
    assert "train        models" in capsys.readouterr().out


def test_figures_that_no_run_made_are_named():
    with pytest.raises(UserError, match=r"differs is none\. accuracy: 0.96 committed, 0.95 now"):
        compare(LOCK, LOCK, METRICS | {"accuracy": 0.96}, METRICS, 0.0)
    with pytest.raises(UserError, match="ece: None committed"):
        compare(LOCK, LOCK, {"accuracy": 0.95}, METRICS, 0.0)
    with pytest.raises(UserError, match="ece: nan committed"):
        compare(LOCK, LOCK, METRICS | {"ece": float("nan")}, METRICS, 0.5)


def test_another_processor_may_differ_a_little():
    other = changed("train", "outs", 0)
    compare(LOCK, other, METRICS | {"accuracy": 0.94}, METRICS, 0.02)
    with pytest.raises(UserError, match=r"accuracy: 0.92 committed"):
        compare(LOCK, other, METRICS | {"accuracy": 0.92}, METRICS, 0.02)


@pytest.mark.parametrize("place", [0, 1])
def test_a_lock_of_other_code_or_photos_is_stale(place):
    path = LOCK["preprocess"]["deps"][place]["path"]
    with pytest.raises(UserError, match=f"preprocess was run with another {path}"):
        compare(changed("preprocess", "deps", place), LOCK, METRICS, METRICS, 0.02)
