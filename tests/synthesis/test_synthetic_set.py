"""Drawn photos beside real ones: matched by name, for training only, in the wanted share."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs import params
from signs.data import arrays, layouts
from stages import preprocess, synthesize

ROOT = Path(__file__).parents[2]
NO_SAMPLES = pd.DataFrame({"digest": [], "split": []})
LABELS = pd.DataFrame({"ClassId": [3, 8, 9], "Name": ["Stop", "Our own sign", "Yield"]})


@pytest.fixture(scope="module")
def settings() -> params.Params:
    return params.load(ROOT / "params.yaml").model_copy(update={"dataset": "own"})


@pytest.fixture
def folder(settings: params.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where drawn photos lie, two of each class; the current folder."""
    monkeypatch.chdir(tmp_path)
    few = settings.synthesize.model_copy(update={"images_per_class": 2})
    names = {13: "Yield", 14: "STOP", 17: "No entry"}
    classes = {class_id: ("gtsrb", class_id) for class_id in names}
    synthesize.write_set(synthesize.ARCHIVE, few, classes, names)
    return tmp_path


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images = np.load(folder / arrays.SYNTHETIC_IMAGES, mmap_mode="r")
    return images, np.load(folder / arrays.SYNTHETIC_LABELS)


def test_classes_are_matched_by_name(settings: params.Params, folder: Path) -> None:
    found = preprocess.add_synthetic(settings, LABELS, NO_SAMPLES, folder)
    assert found == {"photos": 4, "classes": 2}
    images, labels = read(folder)
    assert labels.tolist() == [2, 2, 0, 0]  # class 13, Yield, comes before 14, Stop
    assert images.shape == (4, 32, 32, 3)
    assert all(image.std() > 0 for image in images)


def test_a_name_that_two_classes_have_matches_neither(
    settings: params.Params, folder: Path
) -> None:
    labels = pd.DataFrame({"ClassId": [1, 2, 3], "Name": ["Stop", "stop", "Yield"]})
    assert preprocess.add_synthetic(settings, labels, NO_SAMPLES, folder)["classes"] == 1
    assert read(folder)[1].tolist() == [2, 2]


def test_a_set_without_drawings_trains_on_photos(settings: params.Params, folder: Path) -> None:
    assert preprocess.add_synthetic(settings, LABELS[1:2], NO_SAMPLES, folder)["photos"] == 0
    images, labels = read(folder)
    assert images.shape == (0, 32, 32, 3)
    assert len(labels) == 0


def test_what_the_set_holds_out_does_not_train_as_a_drawing(
    settings: params.Params, folder: Path
) -> None:
    own = layouts.read("synthetic")
    samples, _ = preprocess.decode_all(own, settings.images, folder / "own.npy")
    samples["split"] = ["train", "test", "validation", "train", "train", "train"]
    preprocess.add_synthetic(settings, LABELS, samples, folder)
    images, labels = read(folder)
    assert labels.tolist() == [2, 0]
    assert (images == np.load(folder / "own.npy")[[0, 3]]).all()


def test_nothing_is_drawn_beside_the_drawn_set(
    settings: params.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = settings.model_copy(update={"dataset": "synthetic"})
    preprocess.add_synthetic(drawn, LABELS, NO_SAMPLES, tmp_path)
    assert len(read(tmp_path)[1]) == 0


def test_a_damaged_archive_is_named(settings: params.Params, folder: Path) -> None:
    archive = folder / synthesize.ARCHIVE
    content = bytearray(archive.read_bytes())
    place = content.index(b"14/00000.jpg") + 200
    content[place : place + 100] = bytes(100)
    archive.write_bytes(content)
    with pytest.raises(layouts.DatasetError, match="dvc repro -f synthesize"):
        preprocess.add_synthetic(settings, LABELS, NO_SAMPLES, folder)


def test_outliers_are_none_of_the_classes(settings: params.Params) -> None:
    for labels, other in (("gtsrb", "signs"), ("signs", "gtsrb")):
        found = synthesize.others(settings.synthesize, labels)
        own = set(pd.read_csv(layouts.LABELS / f"{labels}.csv")["Name"])
        names = [set(names.values()) for _, _, names in found.values()]
        # What is tested was not trained on.
        assert not own & (names[0] | names[1])
        assert not names[0] & names[1]
        assert abs(len(names[0]) - len(names[1])) <= 8
        for drawn, classes, of in found.values():
            assert list(classes) == list(of) == list(range(len(of)))
            assert {label_set for label_set, _ in classes.values()} <= {labels, other}
            # Other scenes than those of the photos that train.
            assert drawn.seed != settings.synthesize.seed


def test_outliers_that_a_set_knows_are_left_out(
    settings: params.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = settings.synthesize.model_copy(update={"images_per_class": 2})
    names = {0: "No sign", 1: "YIELD", 2: "No entry"}
    synthesize.write_set(synthesize.OUTLIERS, few, {i: ("gtsrb", 13 + i) for i in names}, names)
    assert preprocess.add_auxiliary_outliers(settings, LABELS, tmp_path) == ["No entry", "No sign"]
    assert np.load(tmp_path / arrays.OUTLIERS).shape == (4, 32, 32, 3)
    recipe = settings.train.compact.model_copy(update={"outliers": 0.0})
    train = settings.train.model_copy(update={"compact": recipe})
    without = settings.model_copy(update={"train": train})
    assert preprocess.add_auxiliary_outliers(without, LABELS, tmp_path) == []
    assert np.load(tmp_path / arrays.OUTLIERS).shape == (0, 32, 32, 3)
