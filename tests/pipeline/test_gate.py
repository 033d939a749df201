"""`python -m signs.operations.gate`, which `make gate` runs, in a project whose pipeline has run."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LENIENT = {
    "gate.max_ece": 1.0,
    "gate.min_class_photos": 1,
    "gate.significance": 0.1,
    "gate.max_latency_ratio": 10.0,
}


def gate(project, champion="HEAD"):
    return project.run("python", "-m", "signs.operations.gate", "--champion", champion)


def checks(project):
    verdict = json.loads(project.path("gate.json").read_text())
    assert verdict["passed"] == all(check["passed"] for check in verdict["checks"])
    return {check["name"]: check["passed"] for check in verdict["checks"]}


def confuse(project):
    """A classifier that calls every class by the next one's number."""
    path = project.path("models/classifier/classifier.json")
    about = json.loads(path.read_text())
    about["class_ids"] = about["class_ids"][1:] + about["class_ids"][:1]
    path.write_text(json.dumps(about))


def test_the_same_classifier_may_replace_itself(done):
    done.set(**LENIENT)
    said = gate(done).succeeds()
    assert "May be deployed" in said
    assert set(checks(done).values()) == {True}
    assert {"no leak", "usable files", "calibration", "size", "accuracy", "recall"} < set(
        checks(done)
    )
    text = done.path("gate.md").read_text()
    assert "0 photos won, 0 lost" in text
    assert "no class loses" in text
    assert "may have trained on some" not in text


def test_a_worse_one_is_refused(done):
    done.set(**LENIENT)
    right = json.loads(done.path("metrics/evaluate/metrics.json").read_text())["accuracy"] * 4
    assert right >= 3  # else there is little to lose
    confuse(done)
    gate(done).fails_with("REFUSED")
    found = checks(done)
    assert not found["recall"]
    assert found["size"]
    assert not found["accuracy"] or right < 4  # 4 of 4 lost: p = 0.0625
    done.set(**LENIENT | {"gate.significance": 0.01})
    gate(done).fails_with("REFUSED")
    assert checks(done)["accuracy"]  # four photos are too few for a proof


@pytest.mark.parametrize(
    ("limit", "check"),
    [
        ({"gate.max_model_mb": 0.001}, "size"),
        ({"gate.max_ece": 0.0}, "calibration"),
    ],
)
def test_each_limit_refuses(done, limit, check):
    done.set(**LENIENT | limit)
    gate(done, "none").fails_with("REFUSED")
    assert [name for name, passed in checks(done).items() if not passed] == [check]
    assert "There is no champion to compare with." in done.path("gate.md").read_text()


def test_a_leak_and_unusable_files_refuse(done):
    path = done.path("metrics/preprocess/audit.json")
    audit = json.loads(path.read_text())
    audit["leaks"]["near"], audit["unusable"] = 1, 20
    path.write_text(json.dumps(audit))
    done.set(**LENIENT)
    gate(done).fails_with("REFUSED")
    found = checks(done)
    assert [name for name, passed in found.items() if not passed] == ["no leak", "usable files"]


def test_another_split_is_noted(done):
    done.commit("The champion")
    done.set(**LENIENT | {"preprocess.split.seed": 7, "evaluate.external_photos": 0})
    done.dvc("repro").succeeds()
    gate(done)
    assert "may have trained on some of them" in done.path("gate.md").read_text()


def test_says_what_is_missing(done):
    gate(done, "nobody").fails_with("there is no classifier of 'nobody'")
    done.path("models/classifier/model.onnx").unlink()
    gate(done).fails_with("There is no classifier in models/classifier")
