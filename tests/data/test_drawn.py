"""Drawn photos beside real ones: matched by name, for training only, in the wanted share."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs import datasets, params, prepared
from stages import preprocess, synthesize

ROOT = Path(__file__).parents[2]
LABELS = pd.DataFrame({"ClassId": [3, 8, 9], "Name": ["Stop", "Our own sign", "Yield"]})


@pytest.fixture(scope="module")
def settings() -> params.Params:
    return params.load(ROOT / "params.yaml").model_copy(update={"dataset": "own"})


@pytest.fixture
def folder(settings: params.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where drawn photos lie, two of each class; the current folder."""
    monkeypatch.chdir(tmp_path)
    few = settings.synthesize.model_copy(update={"images_per_class": 2})
    synthesize.write_archive(synthesize.ARCHIVE, few, synthesize.all_classes("gtsrb"), workers=1)
    return tmp_path


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images = np.load(folder / prepared.DRAWN_IMAGES, mmap_mode="r")
    return images, np.load(folder / prepared.DRAWN_LABELS)


def test_classes_are_matched_by_name(settings: params.Params, folder: Path) -> None:
    (folder / "data/synthetic/labels.csv").write_bytes(
        (datasets.LABELS / "gtsrb.csv").read_bytes()
    )
    preprocess.add_drawn(settings, LABELS, folder)
    images, labels = read(folder)
    assert labels.tolist() == [2, 2, 0, 0]  # class 13, Yield, comes before 14, Stop
    assert images.shape == (4, 32, 32, 3)
    assert all(image.std() > 0 for image in images)


def test_a_set_without_drawings_trains_on_photos(settings: params.Params, folder: Path) -> None:
    preprocess.add_drawn(settings, LABELS[1:2], folder)
    images, labels = read(folder)
    assert images.shape == (0, 32, 32, 3)
    assert len(labels) == 0


def test_nothing_is_drawn_beside_the_drawn_set(
    settings: params.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    preprocess.add_drawn(settings.model_copy(update={"dataset": "synthetic"}), LABELS, tmp_path)
    assert len(read(tmp_path)[1]) == 0


def test_a_damaged_archive_is_named(settings: params.Params, folder: Path) -> None:
    (folder / "data/synthetic/labels.csv").write_bytes(
        (datasets.LABELS / "gtsrb.csv").read_bytes()
    )
    archive = folder / synthesize.ARCHIVE
    content = bytearray(archive.read_bytes())
    place = content.index(b"14/00000.jpg") + 200
    content[place : place + 100] = bytes(100)
    archive.write_bytes(content)
    with pytest.raises(datasets.DatasetError, match="dvc repro -f synthesize"):
        preprocess.add_drawn(settings, LABELS, folder)
