"""Photos that only train: synthetic ones, matched by name, and auxiliary outliers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs import params
from signs.data import arrays, auxiliary, layouts
from signs.data.decode import decode_all
from signs.synthesis import sets

ROOT = Path(__file__).parents[2]
NO_SAMPLES = pd.DataFrame({"digest": [], "split": []})
LABELS = pd.DataFrame({"ClassId": [3, 8, 9], "Name": ["Stop", "Our own sign", "Yield"]})


def settings_with(**values: object) -> params.Params:
    content = params.read(ROOT / "params.yaml")
    params.assign(content, {"dataset": "own"} | values)
    return params.validate(params.Params, content, "")


SETTINGS = settings_with()


def write(folder: str, names: dict[int, str], first: int) -> None:
    """A set with two photos a class, of GTSRB's classes from `first` on."""
    few = SETTINGS.synthesize.model_copy(update={"images_per_class": 2})
    templates = {class_id: ("gtsrb", first + place) for place, class_id in enumerate(names)}
    sets.write(Path("data") / folder, sets.SyntheticSet(few, templates, names))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a synthetic set of three classes; gets the arrays."""
    monkeypatch.chdir(tmp_path)
    write("synthetic", {13: "Yield", 14: "STOP", 17: "No entry"}, first=13)
    return tmp_path


def add(
    folder: Path,
    labels: pd.DataFrame = LABELS,
    samples: pd.DataFrame = NO_SAMPLES,
    settings: params.Params = SETTINGS,
) -> tuple[np.ndarray, list[int]]:
    """The synthetic images and their labels."""
    counts = auxiliary.add_synthetic(settings, labels, samples, folder)
    images = np.load(folder / arrays.SYNTHETIC_IMAGES, mmap_mode="r")
    found = np.load(folder / arrays.SYNTHETIC_LABELS).tolist()
    assert counts == {"photos": len(found), "classes": len(set(found))}
    assert images.shape == (len(found), 32, 32, 3)
    return images, found


def test_classes_are_matched_by_name(folder):
    images, labels = add(folder)
    assert labels == [2, 2, 0, 0]  # class 13, Yield, comes before 14, Stop
    assert all(image.std() > 0 for image in images)


def test_a_name_that_two_classes_have_matches_neither(folder):
    labels = pd.DataFrame({"ClassId": [1, 2, 3], "Name": ["Stop", "stop", "Yield"]})
    assert add(folder, labels)[1] == [2, 2]


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (LABELS[1:2], SETTINGS),  # no class has templates
        (LABELS, settings_with(dataset="synthetic")),
        (LABELS, settings_with(**{"train.compact.synthetic_share": 0.0})),
    ],
)
def test_no_synthetic_photos_are_added_where_none_are_wanted(labels, settings, folder):
    assert add(folder, labels, settings=settings)[1] == []


def test_photos_that_the_data_set_holds_out_do_not_train(folder):
    synthetic = layouts.read("synthetic")
    samples, _ = decode_all(synthetic, SETTINGS.images, folder / "own.npy")
    samples["split"] = ["train", "test", "validation", "train", "train", "train"]
    images, labels = add(folder, samples=samples)
    assert labels == [2, 0]
    assert (images == np.load(folder / "own.npy")[[0, 3]]).all()


def test_a_damaged_archive_is_named(folder):
    archive = folder / "data/synthetic/images.zip"
    content = bytearray(archive.read_bytes())
    place = content.index(b"14/00000.jpg") + 200
    content[place : place + 100] = bytes(100)
    archive.write_bytes(content)
    with pytest.raises(layouts.DatasetError, match="dvc repro -f synthesize"):
        add(folder)


def test_outliers_that_are_classes_of_the_data_set_are_left_out(folder):
    write("auxiliary_outliers", {0: "No sign", 1: "YIELD", 2: "No entry"}, first=12)
    assert auxiliary.add_outliers(SETTINGS, LABELS, True, folder) == ["No entry", "No sign"]
    assert np.load(folder / arrays.AUXILIARY_OUTLIERS).shape == (4, 32, 32, 3)
    without = settings_with(**{"train.compact.auxiliary_outlier_share": 0.0})
    assert auxiliary.add_outliers(without, LABELS, True, folder) == []
    assert np.load(folder / arrays.AUXILIARY_OUTLIERS).shape == (0, 32, 32, 3)


def test_outliers_need_synthetic_photos_of_the_classes(folder):
    write("auxiliary_outliers", {0: "No sign"}, first=12)
    assert auxiliary.add_outliers(SETTINGS, LABELS, False, folder) == []
    assert np.load(folder / arrays.AUXILIARY_OUTLIERS).shape == (0, 32, 32, 3)
    synthetic = settings_with(dataset="synthetic")
    assert auxiliary.add_outliers(synthetic, LABELS, False, folder) == ["No sign"]
