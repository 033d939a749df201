"""Which experiment stands for a row of a table, and when it is run again."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import runs
from signs.commands import git
from signs.errors import UserError
from tests.harness import IDENTITY

PIPELINE = """stages:
  synthesize: {deps: []}
  preprocess: {deps: []}
  train: {deps: [signs/code.py]}
  evaluate: {deps: [signs/metrics.py]}
"""
SECONDS = itertools.count(10**9)


def change(path: str, text: str = "") -> None:
    """Commit other content of a file, a second after the commit before."""
    os.environ["GIT_COMMITTER_DATE"] = now = f"{next(SECONDS)} +0000"
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text or now, encoding="utf-8")
    git("add", "-A")
    git("commit", "--quiet", "-m", "x")


def experiment() -> str:
    """A git reference as DVC makes it for an experiment that starts from the present commit."""
    base = git("rev-parse", "HEAD")
    change("params.yaml", "train: {seed: 2, rate: 0.1}\n")
    reference = f"refs/exps/{base[:2]}/{base[2:]}/set-a-1"
    git("update-ref", reference, "HEAD")
    git("reset", "--quiet", "--hard", base)
    return reference


def find(run: bool = True, stage: str = "train") -> str | None:
    return runs.find("Set A, 1", {"train.seed": 2}, stage, run=run)


@pytest.fixture(autouse=True)
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment in a new repository, which is the present folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in (IDENTITY | {"GIT_COMMITTER_DATE": ""}).items():
        monkeypatch.setenv(name, value)
    git("init", "--quiet", "-b", "main")
    Path("dvc.yaml").write_text(PIPELINE)
    Path("params.yaml").write_text("train: {seed: 1, rate: 0.1}\n")
    change("signs/code.py")
    return experiment()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the experiments that were run."""
    names: list[str] = []
    monkeypatch.setattr(runs, "_run", lambda name, settings, stage: names.append(name))
    return names


def test_an_experiment_with_these_settings_is_found(made: str, started: list[str]) -> None:
    assert find() == made
    assert not started
    assert runs.commit(made) == git("rev-parse", "--short", "HEAD")
    assert "seed: 2" in runs.read(made, "params.yaml")


@pytest.mark.parametrize(
    ("title", "settings"),
    [
        ("Set B, 1", {"train.seed": 2}),
        ("Set A, 1", {"train.seed": 3}),
        ("Set A, 1", {"train.seed": 2, "train.seed.deeper": 3}),
        ("Set A, 1", {"train.seed": 2, "train.momentum": 0.9}),
    ],
)
def test_another_name_or_other_settings_do_not_count(
    started: list[str], title: str, settings: dict[str, Any]
) -> None:
    assert runs.find(title, settings, "train", run=False) is None
    assert not started
    runs.find(title, settings, "train", run=True)
    assert started == [title.lower().replace(", ", "-").replace(" ", "-")]


def test_other_code_of_these_stages_is_run_again(made: str, started: list[str]) -> None:
    change("README.md")
    change("signs/metrics.py")
    assert find(stage="train") == made
    assert not started
    find(stage="evaluate")
    assert len(started) == 1
    change("signs/code.py")
    assert find(run=False) == made
    find()
    assert len(started) == 2


def test_a_later_experiment_of_another_branch_does_not_count(made: str, started: list[str]) -> None:
    git("checkout", "--quiet", "-b", "other")
    change("signs/code.py")
    later = experiment()
    assert find() == later
    git("checkout", "--quiet", "main")
    assert find() == made
    assert not started


def test_uncommitted_code_is_not_run(started: list[str]) -> None:
    Path("signs/code.py").write_text("changed")
    with pytest.raises(UserError, match=r"Commit these changes first(.|\n)*signs/code\.py"):
        runs.find("Set B, 1", {}, "train", run=True)
    assert not started


def test_a_row_that_another_clone_measured_stays() -> None:
    table = Path("table.md")
    assert runs.row("signs, compact", table) == "| signs, compact | not run yet |"
    table.write_text("| signs | 1 |\n| signs, compact | 97.8 | 3 |\n")
    assert runs.row("signs, compact", table) == "| signs, compact | 97.8 | 3 |"
    assert runs.row("signs", table) == "| signs | 1 |"
