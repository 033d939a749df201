"""`make verify` and `make changes`, in a project whose pipeline has run."""

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def verify(project):
    return project.run("python", "-m", "signs.operations.reproduce")


def changes(project, *arguments):
    return project.run("python", "-m", "signs.operations.diff", *arguments)


def edit(path: Path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_comes_out_again_is_verified_byte_for_byte(done):
    cached = sorted(done.path(".dvc/cache/files").rglob("*"))
    said = verify(done).succeeds()
    assert "Reproduced, byte for byte." in said
    assert said.count("the same") == 4
    assert sorted(done.path(".dvc/cache/files").rglob("*")) == cached


def test_a_forgotten_run_is_named(done):
    done.set(**{"train.compact.epochs": 3})
    file = done.path("signs/training/augment.py")
    file.write_text(file.read_text() + "\n# Another.\n")
    done.commit("Changed, but not run")
    verify(done).fails_with("dvc.lock is not of this commit", "train was run with another")


def test_photos_that_no_remote_has_are_named(done):
    done.path("tiny.dvc").unlink()
    done.commit("Photos that DVC does not know")
    verify(done).fails_with("failed in a clone of the commit")


def test_changes_are_told_in_text_and_pictures(done):
    done.commit("Results")
    said = changes(done, "--base", "HEAD").succeeds()
    assert "Metrics: the same." in said
    assert "The same." in done.path("changes.html").read_text()

    edit(done.path("metrics/evaluate/metrics.json"), lambda metrics: metrics.update(accuracy=0.125))
    done.set(**{"train.seed": 7})
    picture = done.path("metrics/evaluate/confusion.png")
    picture.write_bytes(done.path("metrics/evaluate/recall.png").read_bytes())
    said = changes(done, "--base", "HEAD").succeeds()
    text = done.path("changes.md").read_text()
    assert text in said
    assert "| accuracy | " in text
    assert " | 0.1250 | " in text
    assert "| train.seed | 1 | 7 | 6 |" in text
    page = done.path("changes.html").read_text()
    assert page.count("<img ") == 2
    assert "evaluate/confusion.png" in page
    assert "train.seed" in page
    changes(done, "--base", "nothing").fails_with("git knows no 'nothing'")
