"""An ensemble: the mean of its members, and which classifiers may join."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from signs import commands
from signs.errors import UserError
from signs.inference import revisions
from signs.inference.classifier import METADATA, Classifier, Metadata
from signs.inference.ensemble import Ensemble, fetch
from signs.paths import CLASSIFIER
from tests.inference.small import PROVENANCE, SETTINGS, SIZE, load, model, write

Pixel = Callable[..., Classifier]


@pytest.fixture
def pixel(tmp_path: Path) -> Pixel:
    """Makes classifiers whose logits are the values of one pixel."""

    def make(row: int, column: int, temperature: float = 1.0) -> Classifier:
        weights = np.zeros((SIZE, SIZE, 3, 3))
        weights[row, column] = np.eye(3)
        classes = {"class_ids": [0, 1, 2], "names": ["Red", "Green", "Blue"]}
        folder = tmp_path / f"{row}-{column}"
        return load(folder, model(weights, (0, 0, 0)), temperature=temperature, **classes)

    return make


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)


def test_one_member_without_shifts_is_that_member(pixel: Pixel, images: np.ndarray) -> None:
    member = pixel(2, 3)
    alone = Ensemble([member], 0)
    assert alone.logits(images).dtype == np.float32
    assert alone.logits(images) == pytest.approx(images[:, 2, 3])
    assert alone.metadata is member.metadata
    assert (alone.prepare([*images]) == member.prepare([*images])).all()


def test_members_weigh_the_same_whatever_their_temperature(
    pixel: Pixel, images: np.ndarray
) -> None:
    found = Ensemble([pixel(2, 3), pixel(0, 0, temperature=4.0)], 0).logits(images)
    assert found == pytest.approx((images[:, 2, 3] + images[:, 0, 0] / 4) / 2)


@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize(("row", "column"), [(2, 3), (0, 0)], ids=["inside", "at the edge"])
def test_the_mean_of_nine_shifts(
    pixel: Pixel, images: np.ndarray, row: int, column: int, shift: int
) -> None:
    """A shifted image is filled with its edge."""
    nine = np.ix_(*([max(0, x + step) for step in (-shift, 0, shift)] for x in (row, column)))
    found = Ensemble([pixel(row, column)], shift).logits(images)
    assert found == pytest.approx(images[:, *nine].mean(axis=(1, 2)), rel=1e-5)


@pytest.mark.parametrize(("members", "shift", "passes"), [(1, 0, 1), (3, 0, 3), (2, 1, 18)])
def test_passes_through_a_network(pixel: Pixel, members: int, shift: int, passes: int) -> None:
    assert Ensemble([pixel(0, 0)] * members, shift).passes == passes


# Classifiers of other revisions.


def commit(repository: Path, branch: str) -> None:
    commands.dvc("add", "-q", str(CLASSIFIER), at=repository)
    commands.git("checkout", "-q", "-b", branch, at=repository)
    commands.git("add", "-A", at=repository)
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    commands.git(*identity, "commit", "-qm", branch, at=repository)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Branches with a classifier each: one of today's code, one without an energy threshold."""
    folder = tmp_path_factory.mktemp("repository")
    commands.git("init", "-q", at=folder)
    commands.dvc("init", "-q", at=folder)
    write(folder / CLASSIFIER)
    commit(folder, "today")
    metadata = json.loads((folder / CLASSIFIER / METADATA).read_text())
    del metadata["energy_threshold"]
    (folder / CLASSIFIER / METADATA).write_text(json.dumps(metadata))
    commit(folder, "old")
    return folder


@pytest.fixture
def metadata(tmp_path: Path) -> Metadata:
    return load(tmp_path / "own").metadata


def test_the_classifier_of_a_branch_joins(repository: Path, metadata: Metadata) -> None:
    (member,) = fetch(["today"], metadata, str(repository))
    assert member.metadata == metadata


def test_the_classifier_of_a_branch_runs_on_as_many_threads(repository: Path) -> None:
    model = revisions.classifier_of("today", str(repository), threads=1)
    assert model._session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("big-bird", r"no classifier of 'big-bird'.*dvc exp list"),
        ("old", r"classifier of 'old' cannot be used; train it again.*energy_threshold"),
    ],
)
def test_a_revision_without_a_usable_classifier_is_named(
    revision: str, message: str, repository: Path, metadata: Metadata
) -> None:
    with pytest.raises(UserError, match=f"(?s)evaluate.ensemble: .*{message}"):
        fetch([revision], metadata, str(repository))


def test_a_classifier_in_no_cache_and_no_remote_is_named(
    repository: Path, metadata: Metadata, tmp_path: Path
) -> None:
    commands.git("clone", "-q", "-b", "today", str(repository), "clone", at=tmp_path)
    with pytest.raises(UserError, match=r"no classifier of 'HEAD'.*dvc fetch"):
        fetch(["HEAD"], metadata, str(tmp_path / "clone"))


@pytest.mark.parametrize(
    "other",
    [
        {"class_ids": [14, 3, 20, 41]},
        {"images": SETTINGS.model_copy(update={"color": "grey"})},
        {"provenance": PROVENANCE | {"data": "other"}},
        {"provenance": PROVENANCE | {"params": {"split": {"fold": 1}}}},
    ],
    ids=["classes", "image settings", "photos", "split"],
)
def test_a_classifier_that_was_trained_on_something_else_is_refused(
    other: dict[str, object], repository: Path, metadata: Metadata
) -> None:
    with pytest.raises(UserError, match="'today' was trained on other photos"):
        fetch(["today"], metadata.model_copy(update=other), str(repository))
