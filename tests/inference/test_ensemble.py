"""A committee: whose mean it is, and who may sit in it."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from signs.errors import UserError
from signs.inference import classifier, ensemble, revisions


class Pixel:
    """A classifier whose logits are the values of one pixel."""

    def __init__(self, row: int, column: int, temperature: float = 1.0) -> None:
        self._place = row, column
        self.metadata = SimpleNamespace(names=["Red", "Green", "Blue"], temperature=temperature)

    def logits(self, prepared: np.ndarray) -> np.ndarray:
        assert prepared.dtype == np.uint8
        assert prepared.shape[1:] == (6, 6, 3)
        return prepared[:, self._place[0], self._place[1]].astype(np.float32)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)


def mean(*members: Pixel, shift: int, of: np.ndarray) -> np.ndarray:
    return ensemble.Ensemble(members, shift).logits(of)  # type: ignore[arg-type]


def test_one_member_at_one_place_is_that_member(images: np.ndarray) -> None:
    found = mean(Pixel(2, 3), shift=0, of=images)
    assert found.dtype == np.float32
    assert found == pytest.approx(images[:, 2, 3])


def test_members_have_the_same_say_whatever_their_temperature(images: np.ndarray) -> None:
    found = mean(Pixel(2, 3), Pixel(0, 0, temperature=4.0), shift=0, of=images)
    assert found == pytest.approx((images[:, 2, 3] + images[:, 0, 0] / 4) / 2)


@pytest.mark.parametrize("shift", [1, 2])
def test_nine_places_around_where_it_is(images: np.ndarray, shift: int) -> None:
    found = mean(Pixel(2, 3), shift=shift, of=images)
    steps = slice(2 - shift, 3 + shift, shift), slice(3 - shift, 4 + shift, shift)
    assert found == pytest.approx(images[:, steps[0], steps[1]].mean(axis=(1, 2)), rel=1e-5)


def test_beyond_the_edge_the_edge_goes_on(images: np.ndarray) -> None:
    found = mean(Pixel(0, 0), shift=1, of=images)
    corner = images[:, :2, :2].astype(float)
    expected = 4 * corner[:, 0, 0] + 2 * corner[:, 0, 1] + 2 * corner[:, 1, 0] + corner[:, 1, 1]
    assert found == pytest.approx(expected / 9, rel=1e-5)


@pytest.mark.parametrize(("members", "shift", "passes"), [(1, 0, 1), (3, 0, 3), (2, 1, 18)])
def test_the_cost(members: int, shift: int, passes: int) -> None:
    pixels = [Pixel(0, 0)] * members
    assert ensemble.Ensemble(pixels, shift).passes == passes  # type: ignore[arg-type]


def test_an_experiment_that_is_not_there_is_named(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["dvc", "init", "-q"], cwd=tmp_path, check=True)
    same = SimpleNamespace()
    with pytest.raises(UserError, match=r"no classifier of 'big-bird'.*dvc exp list"):
        ensemble.fetch(["big-bird"], same, str(tmp_path))  # type: ignore[arg-type]


def test_files_that_are_nowhere_are_asked_for(tmp_path: Path) -> None:
    """A commit whose classifier lies in no cache and no remote."""
    for command in (
        "git init -q",
        "dvc init -q",
        "mkdir -p models/classifier",
        "touch models/classifier/model.onnx",
        "dvc add -q models/classifier",
        "git add -A",
        "git -c user.name=t -c user.email=t@localhost commit -qm start",
        "rm -rf .dvc/cache models/classifier",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    with pytest.raises(UserError, match=r"no classifier of 'HEAD'.*dvc fetch"):
        ensemble.fetch(["HEAD"], SimpleNamespace(), str(tmp_path))  # type: ignore[arg-type]


def test_a_classifier_of_older_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*_: object, **__: object) -> None:
        raise classifier.ClassifierError("energy_threshold: field required")

    monkeypatch.setattr(revisions, "DVCFileSystem", lambda *_, **__: SimpleNamespace(get=got))
    monkeypatch.setattr(revisions, "Classifier", old)
    with pytest.raises(UserError, match="classifier of 'old' cannot be used; train it again"):
        ensemble.fetch(["old"], SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"class_ids": [1, 0]},
        {"images": "grey"},
        {"provenance": {"data": "else", "params": {"split": {"fold": 0}}}},
        {"provenance": {"data": "same", "params": {"split": {"fold": 1}}}},
    ],
)
def test_who_trained_on_something_else_is_refused(
    other: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {
        "class_ids": [0, 1],
        "images": "rgb",
        "provenance": {"data": "same", "params": {"split": {"fold": 0}}},
    }
    member = SimpleNamespace(about=SimpleNamespace(**about | other))
    monkeypatch.setattr(revisions, "DVCFileSystem", lambda *_, **__: SimpleNamespace(get=got))
    monkeypatch.setattr(revisions, "Classifier", lambda _: member)
    with pytest.raises(UserError, match="'second' was trained on other photos"):
        ensemble.fetch(["second"], SimpleNamespace(**about))  # type: ignore[arg-type]
    fitting = SimpleNamespace(**about | other)
    assert ensemble.fetch(["second"], fitting) == [member]  # type: ignore[arg-type]


def got(*_: object, **__: object) -> None:
    """Nothing needs to be copied for a classifier that is made up."""
