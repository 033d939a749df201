"""The two real data sets: whole, of the known size, and split without a leak."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs.data import audit, duplicates, images, layouts, splits
from signs.data.decode import digest
from signs.data.layouts import Dataset
from signs.data.layouts import gtsrb as gtsrb_layout
from signs.params import ImageSettings, load

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
SPLIT = load(ROOT / "params.yaml").preprocess.split
SETTINGS = ImageSettings(size=32, color="rgb", contrast="none", margin=0.0)
NO_LEAK = {splits.VALIDATION: 0, splits.TEST: 0}

Signs = tuple[Dataset, pd.DataFrame, np.ndarray]

pytestmark = pytest.mark.real_data


def read(name: str) -> Dataset:
    # A checkout that DVC has not filled has an empty folder or none.
    if not (DATA / name).is_dir() or not any((DATA / name).iterdir()):
        pytest.skip(f"data/{name} is absent")
    return layouts.read(name, DATA)


# signs: 58 classes


@pytest.fixture(scope="module")
def signs() -> Signs:
    """The data set, its samples and its thumbnails, each photo decoded once."""
    dataset = read("signs")
    reader = layouts.Reader(dataset.folder)
    photos = [images.decode(reader.read(file)) for file in dataset.table["file"]]
    samples = dataset.table.assign(
        digest=[digest(photo) for photo in photos], label=dataset.table["class_id"]
    )
    assert audit.find_label_conflicts(samples) == []
    return dataset, samples, np.stack([images.thumbnail(photo) for photo in photos])


def test_signs_is_whole_and_has_each_photo_several_times(signs):
    dataset, samples, _ = signs
    assert len(samples) == 4_170
    assert sorted(samples["class_id"].unique()) == list(range(58))
    assert (dataset.problems, dataset.names[52]) == ([], "Stop")
    copies = samples["digest"].value_counts()
    assert len(copies) == 1_672
    assert (copies % 2 == 0).all()


def test_a_random_split_of_signs_leaks(signs):
    samples = signs[1].copy()
    audit.assign_splits(samples, signs[2], SPLIT.model_copy(update={"group": "none"}))
    split = samples["split"].to_numpy(str)
    leaked = duplicates.count_shared(split, samples["digest"].to_numpy(str))
    for name in NO_LEAK:
        assert leaked[name] / (split == name).sum() > 0.8
    assert (split != splits.UNUSED).all()


def test_the_split_of_signs_uses_each_photo_once_and_does_not_leak(signs):
    samples, thumbnails = signs[1].copy(), signs[2]
    audit.assign_splits(samples, thumbnails, SPLIT.model_copy(update={"group": "duplicates"}))
    split, labels = samples["split"].to_numpy(str), samples["label"].to_numpy()
    for column in ("digest", "group"):
        assert duplicates.count_shared(split, samples[column].to_numpy().astype(str)) == NO_LEAK
    near = duplicates.count_near_duplicates(split, thumbnails, labels, SPLIT.similarity)
    assert near == NO_LEAK
    used = samples[split != splits.UNUSED]
    assert len(used) == 1_672
    assert used["digest"].is_unique
    for label, rows in used.groupby("label"):
        expected = {1: {splits.TRAIN}, 2: {splits.TRAIN, splits.TEST}}
        count = rows["group"].nunique()
        assert set(rows["split"]) == expected.get(count, set(splits.SPLITS)), label
    shares = used["split"].value_counts(normalize=True)
    assert shares[splits.TRAIN] > 0.7
    assert 0.07 < shares[splits.TEST] < 0.2
    assert 0.05 < shares[splits.VALIDATION] < 0.2


# GTSRB


@pytest.fixture(scope="module")
def gtsrb() -> Dataset:
    return read("gtsrb")


@pytest.fixture(scope="module")
def training(gtsrb: Dataset) -> pd.DataFrame:
    return gtsrb.table[gtsrb.table["fixed_split"] == ""]


def test_gtsrb_is_whole(gtsrb, training):
    assert len(training) == 39_209
    assert sorted(training["class_id"].unique()) == list(range(43))
    assert (training["class_id"] == 0).sum() == 210
    assert gtsrb.problems == []
    assert gtsrb.names[14] == "Stop"
    assert training["file"].is_unique
    frames = training.groupby("track").size()
    assert len(frames) == 1_307
    assert frames.max() == 30
    assert (frames == 30).mean() > 0.99
    assert (training.groupby("track")["class_id"].nunique() == 1).all()


def test_tracks_never_cross_a_split(training):
    tracks, classes = training["track"].to_numpy(str), training["class_id"].to_numpy()
    group = duplicates.groups(len(tracks), duplicates.same_value_pairs(tracks))
    split = splits.assign(classes, group, SPLIT)
    assert duplicates.count_shared(split, tracks) == NO_LEAK
    at_random = splits.assign(classes, np.arange(len(tracks)), SPLIT)
    assert duplicates.count_shared(at_random, tracks)[splits.TEST] > 3_000
    for name in splits.SPLITS:
        assert set(classes[split == name]) == set(range(43)), name
    assert (split == splits.TEST).mean() == pytest.approx(0.1, abs=0.03)


def redness(image: np.ndarray) -> np.ndarray:
    """Share of red in each RGB pixel above the third that grey has."""
    values = image.astype(float)
    return values[..., 0] / np.maximum(values.sum(axis=-1), 1) - 1 / 3


@pytest.mark.parametrize("class_id", [14, 17])
def test_red_signs_of_gtsrb_lie_within_their_regions(class_id, gtsrb, training):
    """Stop and no entry are red: the region holds more of it than the rest of the photo."""
    reader = layouts.Reader(gtsrb.folder)
    rows = training[training["class_id"] == class_id].iloc[7::30]
    inside, outside = [], []
    for file, region in zip(rows["file"], layouts.regions(rows), strict=True):
        photo = images.decode(reader.read(file))
        height, width = photo.shape[:2]
        left, top, right, bottom = np.round(np.multiply(region, [width, height] * 2)).astype(int)
        around = np.ones((height, width), bool)
        around[top:bottom, left:right] = False
        crop = images.prepare(photo, SETTINGS, region)
        inside.append(redness(crop).mean())
        outside.append(redness(photo)[around].mean())
    assert len(inside) > 20
    assert np.mean(np.array(inside) > np.array(outside)) > 0.95
    assert np.mean(inside) > np.mean(outside) + 0.04


def test_regions_of_gtsrb_leave_a_tenth_around_the_sign(training):
    regions = training[images.REGION].to_numpy()
    assert ((regions >= 0) & (regions <= 1)).all()
    sides = regions[:, 2:] - regions[:, :2]
    # At least 5 pixels.
    assert np.median(sides) == pytest.approx(0.8, abs=0.08)
    assert sides.min() > 0.4
    assert np.abs(regions[:, :2].mean(axis=0) + regions[:, 2:].mean(axis=0) - 1).max() < 0.05


def test_the_archive_of_gtsrb_is_read_as_zipfile_reads_it(gtsrb, training):
    reader = layouts.Reader(gtsrb.folder)
    with zipfile.ZipFile(gtsrb.folder / gtsrb_layout.TRAINING) as archive:
        for file in training["file"].iloc[::1001]:
            member = file.removeprefix(f"{gtsrb_layout.TRAINING}/")
            assert reader.read(file) == archive.read(member)
