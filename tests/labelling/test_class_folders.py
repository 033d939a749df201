"""Where labelled photos go: to class folders that the pipeline reads as a data set."""

from pathlib import Path

import numpy as np
import pytest

from signs.data import layouts
from signs.errors import UserError
from signs.labelling.class_folders import ClassFolders
from tests.inference.small import png

IDS = {"Stop": 14, "Yield": 13, "Speed limit (30 km/h)": 1}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def put(classes: ClassFolders, name: str, file: str = "1.png") -> str:
    """Put a photo into the folder of a class; its path below the set."""
    path = classes.folder_of(name) / file
    path.write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    return path.relative_to(classes.folder).as_posix()


def read(folder: Path) -> dict[str, str]:
    """The class name of each file, as `preprocess` reads the set."""
    found = layouts.identify(folder)
    assert not found.problems
    pairs = zip(found.table["file"], found.table["class_id"], strict=True)
    return {file: found.names[class_id] for file, class_id in pairs}


def test_a_new_set_has_the_classifiers_numbers_and_names(target: Path) -> None:
    classes = ClassFolders(target, IDS)
    assert classes.names == ["Speed limit (30 km/h)", "Stop", "Yield"]
    assert not target.exists()
    expected = {put(classes, name): name for name in ("Stop", "Speed limit (30 km/h)")}
    assert list(expected) == ["14/1.png", "1/1.png"]
    expected[put(classes, "Tram, 3rd", "2.png")] = "Tram, 3rd"
    assert "15/2.png" in expected
    assert read(target) == expected
    again = ClassFolders(target, IDS)
    assert again.names == ["Speed limit (30 km/h)", "Stop", "Tram, 3rd", "Yield"]
    assert put(again, "tram, 3rd", "3.png") == "15/3.png"  # the same name in other letters
    assert put(again, "Yield", "1.png") == "13/1.png"
    assert len(read(target)) == 5


def test_a_table_of_names_without_photos_is_kept(target: Path) -> None:
    target.mkdir()
    (target / "labels.csv").write_text("ClassId,Name,Note\n0,Stop,red\n14,Tram,")
    classes = ClassFolders(target, IDS)
    assert put(classes, "Stop") == "0/1.png"
    assert put(classes, "Yield") == "13/1.png"
    assert put(classes, "Speed limit (30 km/h)") == "1/1.png"
    assert put(classes, "Stopp") == "15/1.png"
    assert set(read(target).values()) == {"Stop", "Yield", "Speed limit (30 km/h)", "Stopp"}
    assert (
        (target / "labels.csv").read_text().startswith("ClassId,Name,Note\n0,Stop,red\n14,Tram,\n")
    )


def test_named_folders_stay_named(target: Path) -> None:
    (target / "stop").mkdir(parents=True)
    (target / "stop/0.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    classes = ClassFolders(target, IDS)
    assert classes.names == ["Speed limit (30 km/h)", "Stop", "Yield"]
    assert put(classes, "Stop") == "stop/1.png"
    assert put(classes, "Speed limit (30 km/h)") == "Speed limit (30 km-h)/1.png"
    again = ClassFolders(target, IDS)
    assert put(again, "Speed limit (30 km/h)", "2.png") == "Speed limit (30 km-h)/2.png"
    assert len(read(target)) == 4
    assert not (target / "labels.csv").exists()
    with pytest.raises(UserError, match="30 is a number, but"):
        again.folder_of("30")


def test_numbered_folders_below_another_and_with_zeros_are_found(target: Path) -> None:
    (target / "photos/00014").mkdir(parents=True)
    (target / "photos/00014/0.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    (target / "labels.csv").write_text("ClassId,Name\n14,Stop\n")
    classes = ClassFolders(target, {"Stop": 3, "Yield": 14})
    assert put(classes, "Stop") == "photos/00014/1.png"
    assert put(classes, "Yield") == "photos/15/1.png"
    assert set(read(target).values()) == {"Stop", "Yield"}


@pytest.mark.parametrize("name", ["", "..", "./", "\\", "a\nb", "a" * 101, "\x00"])
def test_no_name_leads_to_another_place(name: str, target: Path) -> None:
    for folder in ("stop", "14"):
        (target / folder).mkdir(parents=True)
        (target / folder / "0.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
        with pytest.raises(UserError, match="is no name"):
            ClassFolders(target, IDS).folder_of(name)
        (target / folder / "0.png").unlink()


@pytest.mark.parametrize("name", ["../../etc", "/etc", "..\\x", "~/x", ".hidden"])
def test_a_strange_name_is_a_folder_of_the_set(name: str, target: Path) -> None:
    (target / "stop").mkdir(parents=True)
    (target / "stop/0.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    folder = ClassFolders(target, IDS).folder_of(name)
    assert folder.resolve().parent == target.resolve()
    assert not folder.name.startswith(".")


def test_another_layout_or_table_is_refused(target: Path) -> None:
    for part in ("train", "test"):
        (target / part / "stop").mkdir(parents=True)
        (target / part / "stop/0.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    with pytest.raises(UserError, match=r"another layout \(split folders\).*--to"):
        ClassFolders(target, IDS)
    other = target / "other"
    other.mkdir()
    (other / "labels.csv").write_text("Id;SignName\n0;Stop\n")
    classes = ClassFolders(other, IDS)
    assert put(classes, "Stop") == "0/1.png"
    with pytest.raises(UserError, match="must begin with the columns ClassId,Name"):
        classes.folder_of("Yield")
    assert (other / "labels.csv").read_text() == "Id;SignName\n0;Stop\n"


def test_a_published_set_or_a_file_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "signs/14").mkdir(parents=True)
    with pytest.raises(UserError, match="signs must stay complete"):
        ClassFolders(tmp_path / "signs", IDS)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no folder"):
        ClassFolders(tmp_path / "file", IDS)
