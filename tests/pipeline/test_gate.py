"""`signs gate`, in a project whose pipeline has run."""

import json

import pytest

from signs.data import arrays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LENIENT = {"gate.max_ece": 1.0, "gate.min_class_photos": 1}
LENIENT |= {"gate.significance": 0.01, "gate.max_latency_ratio": 10.0}


def gate(project, champion="HEAD"):
    return project.run("python", "-m", "signs", "gate", "--champion", champion)


def checks(project, passed):
    """Names of the checks that passed, or of those that did not."""
    verdict = project.json("gate.json")
    assert verdict["passed"] == all(check["passed"] for check in verdict["checks"])
    return [check["name"] for check in verdict["checks"] if check["passed"] == passed]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_same_classifier_may_replace_itself(done):
    done.set(**LENIENT)
    said = gate(done).succeeds()
    assert "May be deployed" in said
    assert checks(done, passed=True) == [
        *("no leak", "unusable files", "size, MB", "accuracy", "recall of a class"),
        *("calibration (ECE)", "precision of the accepted", "share accepted"),
        *("OOD rejection rate", "OOD FPR at 95 % TPR", "corrupted accuracy"),
        *("time for a photo, median, ms", "time for a photo, p99, ms"),
    ]
    assert not checks(done, passed=False)
    text = done.path("gate.md").read_text()
    assert "0 photos won, 0 lost" in text
    assert "may have trained on some" not in text


def use_all_photos(project):
    """Make all 48 photos test photos: four, most of them read right, would prove nothing."""
    folder = project.path("data/prepared")
    data = arrays.load(folder)
    arrays.write_tables(folder, data.samples.assign(split="test"), data.labels)
    arrays.describe(folder, data.dataset, data.settings, data.split, data.outlier_names)
    digest = arrays.load(folder).digest
    classifier = project.path("models/classifier/classifier.json")
    edit(classifier, lambda metadata: metadata["provenance"].update(data=digest))


def test_a_worse_one_is_refused(done):
    done.set(**LENIENT)
    use_all_photos(done)
    gate(done).succeeds()

    def confuse(metadata):
        """Let it call every class by the next one's number."""
        metadata["class_ids"] = metadata["class_ids"][1:] + metadata["class_ids"][:1]

    edit(done.path("models/classifier/classifier.json"), confuse)
    gate(done).fails_with("REFUSED")
    assert checks(done, passed=False) == ["accuracy", "recall of a class"]


@pytest.mark.parametrize(
    ("limit", "check"),
    [({"gate.max_model_mb": 0.001}, "size, MB"), ({"gate.max_ece": 0.0}, "calibration (ECE)")],
)
def test_each_limit_refuses(done, limit, check):
    done.set(**LENIENT | limit)
    gate(done, "none").fails_with("REFUSED")
    assert checks(done, passed=False) == [check]
    assert "There is no champion to compare with." in done.path("gate.md").read_text()


def test_a_leak_and_unusable_files_refuse(done):
    def spoil(audit):
        audit["leaks"]["near"], audit["unusable"] = 1, 20

    edit(done.path("metrics/preprocess/audit.json"), spoil)
    done.set(**LENIENT)
    gate(done).fails_with("REFUSED")
    assert checks(done, passed=False) == ["no leak", "unusable files"]


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
