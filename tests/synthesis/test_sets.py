"""Synthetic sets: which classes they show, and archives that never change."""

import zipfile
from pathlib import Path

import pytest

from signs.data import layouts
from signs.data.images import decode
from signs.params import Synthesize, load
from signs.synthesis import sets
from signs.synthesis.sets import SyntheticSet

PARAMS = load(Path(__file__).parents[2] / "params.yaml").synthesize


def small_set(count: int) -> SyntheticSet:
    """Two classes, with so many photos each."""
    settings: Synthesize = PARAMS.model_copy(update={"images_per_class": count})
    return SyntheticSet(settings, {0: ("gtsrb", 14), 7: ("signs", 3)}, {0: "Stop", 7: "Other"})


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one") / "images.zip"
    sets.write_archive(path, small_set(3), workers=1)
    return path


def test_an_archive_holds_a_photo_for_each_class_and_index(archive):
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == [f"{c}/{i:05d}.jpg" for c in (0, 7) for i in range(3)]
        for member in opened.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            height, width = decode(opened.read(member)).shape[:2]
            assert height == width
            assert PARAMS.size.low <= width <= PARAMS.size.high


def test_neither_the_number_of_processes_nor_that_of_photos_changes_a_photo(
    archive, tmp_path, monkeypatch
):
    monkeypatch.setattr(sets, "CHUNK", 2)
    path = tmp_path / "images.zip"
    sets.write_archive(path, small_set(3), workers=2)
    assert path.read_bytes() == archive.read_bytes()
    sets.write_archive(path, small_set(4), workers=1)
    with zipfile.ZipFile(archive) as first, zipfile.ZipFile(path) as second:
        assert len(second.namelist()) == 8
        assert all(first.read(name) == second.read(name) for name in first.namelist())


def test_a_set_is_written_with_its_names(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/labels.csv").write_text("of another set")
    sets.write(tmp_path / "own", small_set(1))
    assert layouts.read("own", tmp_path).names == {0: "Stop", 7: "Other"}


@pytest.mark.parametrize(
    ("labels", "other", "classes"), [("gtsrb", "signs", 43), ("signs", "gtsrb", 58)]
)
def test_the_three_sets_share_no_class_and_no_scene(labels, other, classes):
    plan = sets.plan(PARAMS, labels)
    known, outliers, ood = ({name.casefold() for name in s.names.values()} for s in plan.values())
    assert not known & outliers | known & ood | outliers & ood
    assert abs(len(ood) - len(outliers)) <= sets.FAMILY
    assert list(plan["synthetic"].templates) == list(range(classes))
    used = {"synthetic": {labels}, "auxiliary_outliers": {labels, other}, "ood": {other}}
    for (folder, shown), count in zip(plan.items(), (1000, 200, 40), strict=True):
        assert shown.settings.images_per_class == count
        assert list(shown.templates) == list(shown.names)
        assert {label_set for label_set, _ in shown.templates.values()} == used[folder]
        # Other scenes than those of the training photos.
        assert (shown.settings.seed == PARAMS.seed) == (folder == "synthetic")
