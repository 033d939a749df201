"""`make`, `signs verify` and `signs diff`, in a project whose pipeline has run."""

import json
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def signs(project, *arguments):
    return project.run("python", "-m", "signs", *arguments)


def set_accuracy(project):
    metrics = project.json("metrics/evaluate/metrics.json") | {"accuracy": 0.125}
    project.path("metrics/evaluate/metrics.json").write_text(json.dumps(metrics))


def test_what_comes_out_again_is_verified_byte_for_byte(done, tmp_path):
    # Git tells nothing here: the last commit is another one, there is no history, and .git a file.
    done.append("signs/serving/app.py", "\n")
    done.commit("Unrelated")
    shallow, tree = str(tmp_path / "shallow"), tmp_path / "tree"
    done.run("git", "clone", "--quiet", "--depth=1", done.folder.as_uri(), shallow).succeeds()
    done.run("git", "-C", shallow, "worktree", "add", "--quiet", str(tree)).succeeds()
    worktree = type(done)(tree)
    worktree.dvc("cache", "dir", "--local", str(done.path(".dvc/cache"))).succeeds()
    cached = sorted(done.path(".dvc/cache/files").rglob("*"))
    said = signs(worktree, "verify").succeeds()
    assert "Reproduced, byte for byte." in said
    assert said.count("same bytes") == 5
    assert sorted(done.path(".dvc/cache/files").rglob("*")) == cached


def test_what_was_made_here_is_compared_without_a_run(done):
    assert "Reproduced, byte for byte." in signs(done, "verify", "--made").succeeds()
    assert "-m stages.train" not in done.notes()
    set_accuracy(done)
    signs(done, "verify", "--made").fails_with("what differs first is no output", "0.125 now")
    done.path("metrics/evaluate/metrics.json").unlink()
    signs(done, "verify", "--made").fails_with("no metrics/evaluate/metrics.json here")


def test_a_forgotten_run_is_named(done):
    done.set(**{"train.compact.epochs": 3})
    done.commit("Changed, but not run")
    said = signs(done, "verify")
    said.fails_with("dvc.lock is not of this commit: train was run with another train.compact")
    # That was found before a run of many minutes.
    assert "-m stages.synthesize" not in done.notes()


def test_photos_that_no_remote_has_are_named(done):
    done.path("tiny.dvc").unlink()
    done.commit("Photos that DVC does not know")
    signs(done, "verify").fails_with("`dvc repro --force --no-commit` failed in", "/clone")


def test_make_names_the_committed_results_that_it_changed(done):
    def make():
        return done.run("make", "-o", "setup", f"VENV={sys.prefix}", "ARGS=--dry").succeeds()

    last = "Pictures and tables: report.html"
    assert make().splitlines()[-1] == last
    set_accuracy(done)
    said = make().partition(last)[2]
    assert said.startswith("\nThis run made metrics/ again, and git shows changes: times")


def test_a_diff_has_text_and_pictures(done):
    done.commit("Results")
    said = signs(done, "diff", "--base", "HEAD").succeeds()
    assert "Metrics: the same." in said
    assert "Settings: the same." in said
    assert done.path("diff.html").read_text().count("The same.") == 3

    set_accuracy(done)
    done.set(**{"train.seed": 7})
    done.path("metrics/report/confusion.png").write_bytes(
        done.path("metrics/report/recall.png").read_bytes()
    )
    done.path("metrics/report/recall.png").unlink()
    said = signs(done, "diff", "--base", "HEAD").succeeds()
    text = done.path("diff.md").read_text()
    assert text in said
    (row,) = (line for line in text.splitlines() if "| accuracy " in line)
    assert "metrics/evaluate/metrics.json" in row
    assert "| 0.125 " in row
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]] == [
        *("train.seed", "1", "7")
    ]
    page = done.path("diff.html").read_text()
    # One picture has two versions, the other had one.
    assert page.count("<img ") == 3
    assert "report/confusion.png" in page
    assert "<td>train.seed</td>" in page
    signs(done, "diff", "--base", "nothing").fails_with("git knows no 'nothing'")
