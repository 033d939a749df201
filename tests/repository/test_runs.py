"""Which experiment stands for a row of a page, when it is run again, and what the page shows."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, exports, ood, results, runs, synthesis
from signs.commands import git
from signs.errors import UserError
from tests.harness import IDENTITY

ROOT = Path(__file__).parents[2]
DVC_YAML = """stages:
  synthesize: {deps: [requirements/pipeline.txt], params: []}
  preprocess: {deps: [], params: []}
  train: {deps: [signs/code.py], params: ["train.${train.network}", train.seed]}
  evaluate: {deps: [signs/metrics.py], params: []}
"""
PARAMS = "train: {network: a, seed: 1, a: {rate: 0.1}, b: {rate: 1}}\n"
SETTINGS = {"train.seed": 2}
SECONDS = itertools.count(10**9)


def change(path: str, text: str = "") -> None:
    """Commit other content of a file, a second after the commit before."""
    os.environ["GIT_COMMITTER_DATE"] = now = f"{next(SECONDS)} +0000"
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text or now, encoding="utf-8")
    git("add", "-A")
    git("commit", "--quiet", "-m", "x")


def experiment(settings: dict[str, Any] = SETTINGS) -> str:
    """A git reference as DVC makes it for an experiment that starts from the present commit."""
    base = git("rev-parse", "HEAD")
    name = f"set-a-1-{runs.digest('train', settings)}"
    change("params.yaml", PARAMS.replace("seed: 1", "seed: 2"))
    reference = f"refs/exps/{base[:2]}/{base[2:]}/{name}"
    git("update-ref", reference, "HEAD")
    git("reset", "--quiet", "--hard", base)
    return reference


def find(run: bool = True, stage: str = "train") -> str:
    return runs.find("Set A, 1", SETTINGS, stage, run=run)


@pytest.fixture(autouse=True)
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment in a new repository, which is the present folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in (IDENTITY | {"GIT_COMMITTER_DATE": ""}).items():
        monkeypatch.setenv(name, value)
    git("init", "--quiet", "-b", "main")
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("params.yaml").write_text(PARAMS)
    files = ("requirements/pipeline.txt", "data.dvc", "gtsrb.dvc", "signs/metrics.py")
    for path in (*files, "signs/code.py"):
        change(path)
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
    ("title", "settings"), [("Set B, 1", SETTINGS), ("Set A, 1", {"train.seed": 3})]
)
def test_another_name_or_other_settings_do_not_count(
    started: list[str], title: str, settings: dict[str, Any]
) -> None:
    assert not runs.find(title, settings, "train", run=False)
    assert not started
    runs.find(title, settings, "train", run=True)
    name = title.lower().replace(", ", "-").replace(" ", "-")
    assert started == [f"{name}-{runs.digest('train', settings)}"]


def test_other_code_is_run_again_and_earlier_code_is_found_again(
    made: str, started: list[str]
) -> None:
    before = Path("signs/code.py").read_text()
    change("signs/code.py")
    assert not find(run=False)
    find()
    assert len(started) == 1
    change("signs/code.py", before)
    assert find() == made
    assert len(started) == 1


def test_uncommitted_code_is_not_run(started: list[str]) -> None:
    Path("signs/code.py").write_text("changed")
    assert not find(run=False)
    with pytest.raises(UserError, match=r"Commit these changes first(.|\n)*signs/code\.py"):
        find()
    assert not started


@pytest.mark.parametrize(
    ("path", "text", "counts"),
    [
        ("signs/code.py", "other", True),
        ("requirements/pipeline.txt", "other", True),
        ("data.dvc", "other", True),
        ("params.yaml", PARAMS.replace("0.1", "0.2"), True),
        ("params.yaml", PARAMS.replace("seed: 1", "seed: 3"), False),  # an experiment sets it
        ("params.yaml", PARAMS.replace("rate: 1", "rate: 2"), False),  # of another network
        ("signs/metrics.py", "other", False),  # of a later stage
    ],
)
def test_a_digest_holds_what_determines_an_experiment(path: str, text: str, counts: bool) -> None:
    before = runs.digest("train", SETTINGS)
    assert before != runs.digest("train", {"train.seed": 4})
    Path(path).write_text(text)
    assert (runs.digest("train", SETTINGS) != before) == counts


def test_a_page_shows_the_rows_that_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FOLDER", Path.cwd())
    present = runs.digest("train", SETTINGS)
    Path("t.md").write_text("{rows}\n{processors}, {base}\n")
    Path("t.csv").write_text(
        "setting,accuracy,commit,processor,digest\n"
        f'"a, b",97.8,c0,K,{present}\n'
        "old,90.10,c0,K,\n"
        f"not listed,1,c0,K,{present}\n"
    )
    titles = ("new", "old", "a, b", "not run")
    experiments = {title: {title: SETTINGS} for title in titles}
    page = runs.Page("t", "train", experiments, lambda *_: {}, {"base": "x"})
    page.keep("new", {"accuracy": "98.0", "commit": "c1", "processor": "L"})
    expected = """| setting | accuracy | commit |
| --- | --- | --- |
| new | **98.0** | c1 |
| old | **90.10** | c0, of earlier code |
| a, b | **97.8** | c0 |
| not listed | **1** | c0, of earlier code |
L (c1); K (c0), x
"""
    assert page.markdown() == expected
    page.keep("a, b", {"accuracy": "97.9", "commit": "c0", "processor": "K"})
    assert page.markdown() == expected.replace("97.8", "97.9")
    Path("signs/code.py").write_text("other")
    assert page.markdown().count("of earlier code") == 4


@pytest.mark.parametrize("generator", [ablation, results, synthesis])
def test_a_run_makes_all_cells_of_a_row(generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    def read(_: str, path: str) -> str:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        # The default run reads no photos of another set.
        return json.dumps({"external": content.get("test"), **content})

    monkeypatch.setattr(runs, "read", read)
    monkeypatch.setattr(runs, "commit", lambda _: "c0")
    # Needs the real photos, which a clone does not have.
    monkeypatch.setattr(ablation, "_corrupted_accuracy", lambda *_: 0.9)
    page = generator.page()
    cells = page.cells(next(iter(page.experiments)), ["", ""])
    columns = (runs.FOLDER / f"{page.name}.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert columns.endswith(",".join(["", *cells, "digest"]))
    assert "nan" not in cells.values()


@pytest.mark.parametrize("generator", [ablation, exports, ood, results, synthesis])
def test_committed_pages_are_what_their_generators_write(generator, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    page = generator.page()
    committed = Path(f"docs/{page.name}.md").read_text(encoding="utf-8")
    assert committed == page.markdown(), f"run `make {page.name} ARGS=--table`"
