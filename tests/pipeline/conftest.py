"""A copy of the repository with a tiny data set, in which the real `dvc` runs the real stages."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pytest
import yaml

from signs import params
from tests.harness import Outcome, Repository, Running, copy_checkout

# Files that a clone in which the pipeline has never run does not have.
LEFT_OUT = ("dvc.lock", "metrics/", "tests/")

CLASSES, PHOTOS = 4, 12
TINY = {
    "train.seed": 1,  # whatever params.yaml has: tests change it to others
    "dataset": "tiny",
    "synthesize.images_per_class": 2,
    "synthesize.ood_per_class": 2,
    "synthesize.auxiliary_outliers_per_class": 2,
    "preprocess.images.compact.size": 16,
    "preprocess.split.folds": PHOTOS,
    "train.compact.epochs": 4,
    "train.compact.steps_per_epoch": 4,
    "train.compact.batch_size": 8,
    "train.compact.synthetic_share": 0.0,
    # Four test photos prove nothing, nor does a busy machine.
    "gate.min_accepted_precision": 0.0,
    "gate.max_accepted_drop": 1.0,
    "gate.max_ood_rejection_drop": 1.0,
    "gate.max_ood_fpr95_rise": 1.0,
    "gate.max_corrupted_drop": 1.0,
    "gate.max_p99_ratio": 1000.0,
}

# Every Python process notes its command, and whether it imports TensorFlow.
NOTES = """
import os, sys

def note(line):
    with open(os.environ["NOTES"], "a") as file:
        file.write(line + "\\n")

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "tensorflow":
            note("tensorflow")

note(" ".join(sys.orig_argv[1:]))
sys.meta_path.insert(0, Watch)
"""


class Project(Repository):
    """A copy of the repository whose Python processes leave notes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._notes = self.home / "notes"
        (self.home / "sitecustomize.py").write_text(NOTES)
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # Of this user, so that no copy has to make caches of fonts anew.
        self.environment |= {"HOME": str(Path.home())}
        self.environment |= {"PYTHONPATH": str(self.home), "NOTES": str(self._notes)}

    def json(self, name: str) -> Any:
        return json.loads(self.path(name).read_text(encoding="utf-8"))

    def append(self, name: str, text: str) -> None:
        with self.path(name).open("a", encoding="utf-8") as file:
            file.write(text)

    def stage(self, name: str) -> Outcome:
        """Run a stage as dvc.yaml does, but without DVC."""
        return self.run("python", "-m", f"stages.{name}")

    def set(self, **values: Any) -> None:
        """Change parameters, with dotted keys: set(**{"train.seed": 1})."""
        file = self.path("params.yaml")
        content = params.read(file)
        params.assign(content, values)
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def notes(self) -> list[str]:
        """What the Python processes noted that started since the last call."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        self._notes.unlink(missing_ok=True)
        return lines

    def has_noted(self, line: str) -> bool:
        return self._notes.exists() and line in self._notes.read_text().splitlines()

    def copy(self, folder: Path) -> Self:
        project = super().copy(folder)
        shutil.rmtree(folder / ".dvc/tmp", ignore_errors=True)
        return project


def photo(class_id: int, number: int, side: int = 24) -> np.ndarray:
    """A photo that resembles no other: a pattern of its own, in its class's colour."""
    rng = np.random.default_rng([class_id, number])
    blocks = rng.integers(0, 160, (6, 6, 1)).repeat(3, axis=2).astype(np.uint8)
    blocks += np.array([(80, 0, 0), (0, 80, 0), (0, 0, 80), (40, 40, 40)][class_id], np.uint8)
    return cv2.resize(blocks, (side, side), interpolation=cv2.INTER_NEAREST)


def _write_photos(folder: Path, side: int = 24) -> None:
    for class_id in range(CLASSES):
        (folder / str(class_id)).mkdir(parents=True)
        for number in range(PHOTOS):
            file = folder / f"{class_id}/{number:03d}.png"
            file.write_bytes(cv2.imencode(".png", photo(class_id, number, side))[1].tobytes())


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of long tests may run as long as their test may."""
    if request.node.get_closest_marker("long"):
        monkeypatch.setattr(Running, "patience", threading.TIMEOUT_MAX)


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh clone with the tiny data set, nothing run yet. Only to be copied."""
    project = Project(tmp_path_factory.mktemp("blank") / "clone")
    copy_checkout(project.folder, LEFT_OUT)
    project.set(**TINY)
    _write_photos(project.path("data/tiny"))
    # data/ is not in git, so `dvc add` cannot put its file there.
    project.path("tiny.dvc").write_text("outs:\n- path: data/tiny\n  hash: md5\n")
    project.run("git", "init", "--quiet", "-b", "main").succeeds()
    project.dvc("commit", "--force", "tiny.dvc").succeeds()
    project.commit("Start with a tiny data set")
    return project


@dataclass
class Finished:
    """A project after its first `dvc repro`, and what its Python processes noted."""

    project: Project
    notes: list[str]


@pytest.fixture(scope="session")
def finished(blank: Project, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The whole pipeline, run once and committed. Tests must not change it."""
    project = blank.copy(tmp_path_factory.mktemp("finished") / "clone")
    project.dvc("repro").succeeds()
    notes = project.notes()
    project.commit("Run the pipeline")
    return Finished(project, notes)


@pytest.fixture(scope="session")
def write_photos() -> Callable[[Path, int], None]:
    """Write the tiny data set into a folder, with so many pixels per side."""
    return _write_photos


@pytest.fixture(scope="session")
def stages_in() -> Callable[[list[str]], list[str]]:
    """The stages among the Python processes that were noted, in order."""
    return lambda notes: [
        line.removeprefix("-m stages.") for line in notes if line.startswith("-m stages.")
    ]


@pytest.fixture
def fresh(blank: Project, tmp_path: Path) -> Iterator[Project]:
    """A fresh clone that the test may change."""
    yield blank.copy(tmp_path / "clone")
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def done(finished: Finished, tmp_path: Path) -> Iterator[Project]:
    """A finished pipeline that the test may change."""
    yield finished.project.copy(tmp_path / "clone")
    shutil.rmtree(tmp_path, ignore_errors=True)
