"""Which experiment stands for a row of a table, and when it is run again."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import experiments
from signs.errors import UserError


class Repository:
    """A git repository with references as DVC makes them for experiments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "-b", "main")
        self.write("signs/code.py", "1")
        self.write("params.yaml", "train: {seed: 1, rate: 0.1}\n")
        self.commit("2026-01-01")

    def git(self, *arguments: str, date: str = "2026-01-01") -> str:
        when = f"{date}T00:00:00+00:00"
        names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "HOME": str(self.folder)}
        names |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
        names |= {"GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when, "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=names,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, encoding="utf-8")

    def commit(self, date: str) -> str:
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", "x", date=date)
        return self.git("rev-parse", "HEAD")

    def experiment(self, name: str, seed: int, date: str) -> str:
        """An experiment that starts from the present commit."""
        base = self.git("rev-parse", "HEAD")
        self.write("params.yaml", f"train: {{seed: {seed}, rate: 0.1}}\n")
        made = self.commit(date)
        self.git("reset", "--quiet", "--hard", base)
        reference = f"refs/exps/{base[:2]}/{base[2:]}/{name}"
        self.git("update-ref", reference, made)
        return reference


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    return Repository(tmp_path)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was run."""
    names: list[str] = []

    def run(name: str, settings: dict[str, Any], stage: str) -> None:
        names.append(name)

    monkeypatch.setattr(experiments, "_run", run)
    return names


def test_an_experiment_with_these_settings_is_found(
    repository: Repository, runs: list[str]
) -> None:
    made = repository.experiment("set-a-1", 2, "2026-01-02")
    assert experiments.find("Set A, 1", {"train.seed": 2}, "train", run=True) == made
    assert not runs
    assert experiments.commit(made) == repository.git("rev-parse", "--short", "HEAD")
    assert "seed: 2" in experiments.read(made, "params.yaml")


def test_another_name_or_other_settings_do_not_count(
    repository: Repository, runs: list[str]
) -> None:
    repository.experiment("set-a-1", 2, "2026-01-02")
    for title, settings in (
        ("Set B, 1", {"train.seed": 2}),
        ("Set A, 1", {"train.seed": 3}),
        ("Set A, 1", {"train.seed": 2, "train.momentum": 0.9}),
    ):
        assert experiments.find(title, settings, "train", run=False) is None
        experiments.find(title, settings, "train", run=True)
    assert runs == ["set-b-1", "set-a-1", "set-a-1"]


def test_other_code_is_run_again_but_still_shown(repository: Repository, runs: list[str]) -> None:
    old = repository.experiment("set-a-1", 2, "2026-01-02")
    repository.write("README.md", "other words\n")
    repository.commit("2026-01-03")
    experiments.find("Set A, 1", {"train.seed": 2}, "train", run=True)
    assert not runs
    repository.write("signs/code.py", "2")
    repository.commit("2026-01-04")
    assert experiments.find("Set A, 1", {"train.seed": 2}, "train", run=False) == old
    experiments.find("Set A, 1", {"train.seed": 2}, "train", run=True)
    assert runs == ["set-a-1"]
    new = repository.experiment("set-a-1", 2, "2026-01-05")
    assert experiments.find("Set A, 1", {"train.seed": 2}, "train", run=True) == new
    assert runs == ["set-a-1"]
    # Another branch's later experiment does not stand for the present code.
    repository.git("checkout", "--quiet", "-b", "other")
    repository.write("signs/code.py", "3")
    repository.commit("2026-01-06")
    repository.experiment("set-a-1", 2, "2026-01-07")
    repository.git("checkout", "--quiet", "main")
    assert experiments.find("Set A, 1", {"train.seed": 2}, "train", run=True) == new
    assert runs == ["set-a-1"]


def test_uncommitted_code_is_not_run(repository: Repository, runs: list[str]) -> None:
    repository.write("signs/code.py", "2")
    with pytest.raises(UserError, match="Commit"):
        experiments.find("Set A, 1", {"train.seed": 2}, "train", run=True)
    assert not runs


def test_a_row_that_another_clone_measured_stays(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    assert experiments.row("signs, compact", table) == "| signs, compact | not run yet |"
    table.write_text("| signs | 1 |\n| signs, compact | 97.8 | 3 |\n")
    assert experiments.row("signs, compact", table) == "| signs, compact | 97.8 | 3 |"
    assert experiments.row("signs", table) == "| signs | 1 |"
