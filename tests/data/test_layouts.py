"""Raw data sets: folders, archives, the official GTSRB layout, and what may be wrong with them."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from signs.data import images, layouts
from signs.data.layouts import DatasetError, Reader
from signs.data.layouts.gtsrb import TEST_IMAGES as GTSRB_TEST
from signs.data.layouts.gtsrb import TEST_TABLE as GTSRB_TEST_LABELS
from signs.data.layouts.gtsrb import TRAINING as GTSRB_TRAINING
from signs.params import ImageSettings

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
TRAINING = "GTSRB/Final_Training/Images"

Files = Mapping[str, bytes | str]


def photo(value: int = 0, kind: str = ".ppm") -> bytes:
    """A photo of 12 x 10 pixels that is like no other."""
    pixels = np.random.default_rng(value).integers(0, 256, (10, 12, 3), np.uint8)
    return cv2.imencode(kind, pixels)[1].tobytes()


def lay(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def pack(path: Path, files: Files, compression: int = zipfile.ZIP_DEFLATED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def lay_and_pack(folder: Path, names: list[str]) -> None:
    """Empty files; those below a name like a.zip go into an archive."""
    packed = [name.partition(".zip/") for name in names]
    lay(folder, {name: b"" for name, inside, _ in packed if not inside})
    for archive in {name for name, inside, _ in packed if inside}:
        members = {member: b"" for name, inside, member in packed if inside and name == archive}
        pack(folder / f"{archive}.zip", members)


def refusal(data: Path, name: str = "own") -> str:
    with pytest.raises(DatasetError) as caught:
        layouts.read(name, data)
    return str(caught.value)


# Folders


@pytest.mark.parametrize(
    ("folders", "class_ids", "names"),
    [
        (["10", "2", "0"], [0, 2, 10], ["0", "2", "10"]),  # 10 comes after 2
        (["00003", "00100", "00020"], [3, 20, 100], ["00003", "00020", "00100"]),
        (["yield", "stop", "Give way"], [0, 1, 2], ["Give way", "stop", "yield"]),
    ],
)
def test_class_folders_are_numbers_or_names(folders, class_ids, names, tmp_path):
    lay(tmp_path, {f"own/{folder}/{name}.png": b"" for folder in folders for name in "ba"})
    dataset = layouts.read("own", tmp_path)
    table = dataset.table
    assert table["class_id"].tolist() == [class_id for class_id in class_ids for _ in "ab"]
    assert table["file"].tolist() == [f"{name}/{file}.png" for name in names for file in "ab"]
    assert dataset.names == dict(zip(class_ids, names, strict=True))
    assert dataset.problems == []
    assert (table[["track", "fixed_split"]] == "").all(axis=None)
    assert layouts.regions(table) == [None] * 6


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["0/a.png", "1/a.png", "stop/a.png"], "mixes numbered classes with named ones (stop)"),
        (["1/a.png", "01/b.png", "2/c.png"], "several folders for class 1."),
        (["0/a.png", "1/deep/b.png"], "own/1/deep/b.png is too deep"),
        ([], "holds no images"),
        (["photo.png"], "holds no images"),
        ([".x/a.png"], "holds no images"),
        (["0/.keep"], "holds no images"),
    ],
)
def test_unusable_folders_are_refused(files, message, tmp_path):
    (tmp_path / "own").mkdir()
    lay(tmp_path / "own", dict.fromkeys(files, b""))
    assert message in refusal(tmp_path)


def test_hidden_files_are_ignored_and_problems_are_listed(tmp_path):
    hidden = ["0/.DS_Store", ".git/x.png", ".hidden", "note.txt", "1/.keep"]
    lay(tmp_path / "own", dict.fromkeys(["0/a.png", "loose.png", *hidden], b""))
    (tmp_path / "own/2").mkdir()
    dataset = layouts.read("own", tmp_path)
    assert dataset.table["file"].tolist() == ["0/a.png"]
    assert dataset.problems == [("loose.png", "is in no class folder")]
    # Nobody misses a class without a photo: it is listed, but stops nothing.
    assert dataset.notes == [("1", "the folder is empty"), ("2", "the folder is empty")]
    assert dataset.litter == 4  # .DS_Store, .git, .hidden, .keep


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("synthetic", "dvc repro synthesize"),
        ("signs", "make data"),
        ("gtsrb", "official archives"),
        ("own", "one sub-folder for each class into data/own"),
    ],
)
def test_a_missing_folder_is_named_with_advice(name, advice, tmp_path):
    for _ in range(2):
        message = refusal(tmp_path, name)
        assert f"{tmp_path / name} is missing" in message
        assert advice in message
        lay(tmp_path, {name: b"a file where the folder should be"})


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train/0/a.png", "train/1/a.png", "test/0/b.png"], ["test", "train", "train"]),
        (["Train/stop/a.png", "valid/stop/b.png"], ["train", "validation"]),
        (["stop/train/a.png", "stop/test/b.png"], ["test", "train"]),
        (["all.zip/train/0/a.png", "all.zip/val/0/b.png"], ["train", "validation"]),
        (["all.zip/set/Train/stop/a.png", "all.zip/set/Testing/stop/b.png"], ["train", "test"]),
        (["train.zip/0/a.png", "TEST.zip/0/b.png"], ["test", "train"]),
        (["0/a.png", "test.zip/0/b.png"], ["", "test"]),
        (["a/train/0/a.png", "a/val/0/b.png", "a/test/0/c.png"], ["test", "train", "validation"]),
    ],
)
def test_a_given_split_is_kept(files, splits, tmp_path):
    lay_and_pack(tmp_path / "own", files)
    dataset = layouts.read("own", tmp_path)
    assert dataset.layout == "split folders"
    assert sorted(dataset.table["file"]) == sorted(files)
    assert dataset.table["fixed_split"].tolist() == splits
    assert set(dataset.names.values()) <= {"0", "1", "stop"}


@pytest.mark.parametrize("files", [["train/a.png", "test/b.png"], ["a.zip/val/a.png", "a.zip/test/b.png"]])
def test_split_folders_without_classes_are_refused(files, tmp_path):
    lay_and_pack(tmp_path / "own", files)
    assert "but no class folders in these. Expected own/<split>/<class>/<image>" in refusal(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["train.zip/0/a.png", "train.zip/1/b.png"],
        ["all.zip/train/0/a.png", "all.zip/train/1/b.png"],
        ["train/a.png", "tram/b.png"],  # classes: signs that warn of them
    ],
)
def test_one_part_of_a_split_is_read(files, tmp_path):
    lay_and_pack(tmp_path / "own", files)
    assert sorted(layouts.read("own", tmp_path).table["file"]) == files


def test_data_that_cannot_be_read_where_it_lies_are_listed(tmp_path):
    ignored = ["notes.txt", "README.md", "LICENSE", "labels.csv.bak"]
    loose = ["boxes.csv", "more.tar.gz", "more.7z", "a.zip/labels.csv", "a.zip/inner.ZIP"]
    lay_and_pack(tmp_path / "own", ["0/a.png", "a.zip/1/b.png", *ignored, *loose])
    dataset = layouts.read("own", tmp_path)
    assert len(dataset.table) == 2
    assert {file for file, _ in dataset.problems} == set(loose)


# Archives of class folders


def test_archives_and_folders_add_up(tmp_path):
    own = tmp_path / "own"
    pack(own / "A.ZIP", {"set/10/x.png": b"1", "set/9/x.png": b"2"})
    hidden = {"9/.DS_Store": b"", "__MACOSX/0/._a.png": b"", "readme.txt": b""}
    pack(own / "b.zip", {"9/x.png": photo(kind=".png"), **hidden})
    lay(own, {"9/y.png": b"4"})
    table, reader = layouts.read("own", tmp_path).table, Reader(own)
    rows = table[["file", "class_id"]].to_numpy()
    assert [(file, class_id, reader.read(file)) for file, class_id in rows] == [
        ("9/y.png", 9, b"4"),
        ("A.ZIP/set/9/x.png", 9, b"2"),
        ("b.zip/9/x.png", 9, photo(kind=".png")),
        ("A.ZIP/set/10/x.png", 10, b"1"),
    ]


@pytest.mark.parametrize("bad", ["../evil/0.png", "0/../../evil.png", "/etc/0.png", "0\\..\\x.png"])
@pytest.mark.parametrize("archive", ["photos.zip", GTSRB_TRAINING])
def test_a_path_that_leaves_the_archive_is_refused(bad, archive, tmp_path):
    pack(tmp_path / "own" / archive, {"0/a.png": b"", bad: b""})
    assert f"holds the path {bad!r}, which leaves the archive" in refusal(tmp_path)
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_one_bad_file(compression, tmp_path):
    path = tmp_path / "own/photos.zip"
    pack(path, {"0/a.png": bytes(range(256)) * 20, "0/b.png": b"whole"}, compression)
    content = bytearray(path.read_bytes())
    content[45:60] = b"\xff" * 15
    path.write_bytes(content)
    reader = Reader(tmp_path / "own")
    for name in ("a.png", "absent.png"):
        with pytest.raises(zipfile.BadZipFile):
            reader.read(f"photos.zip/0/{name}")
    assert reader.read("photos.zip/0/b.png") == b"whole"


# Labels


def write_labels(tmp_path: Path, labels: str | bytes) -> None:
    lay(tmp_path, {"own/0/a.png": b"", "own/1/a.png": b"", "own/labels.csv": labels})


def test_names_come_from_labels(tmp_path):
    text = 'ClassId,Name,Note\n2,Unused,\n1, Yield ,x\n0,"Stop, all way",\n'
    write_labels(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert layouts.read("own", tmp_path).names == {0: "Stop, all way", 1: "Yield"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("Id,Nom\n0,a\n1,b\n", "must have the columns ClassId,Name; found ['Id', 'Nom']"),
        ("0,a\n1,b\n", "must have the columns ClassId,Name"),
        ("", "must have the columns ClassId,Name; found None"),
        ("ClassId,Name\n0,a\n1,b\n0,c\n", "line 4: class 0 is named twice. Remove one"),
        ("ClassId,Name\n0,a\n00,c\n1,b\n", "line 3: class 00 is named twice"),
        ("ClassId,Name\n7,a\n", "has no name for class 0, 1"),
        ("ClassId,Name\n0,a\nstop,b\n", "line 3: a class id or name is wrong"),
        ("ClassId,Name\n0,a\n1.0,b\n", "line 3: a class id or name is wrong"),
        ("ClassId,Name\n0,a\n-1,b\n", "line 3: a class id or name is wrong"),
        ("ClassId,Name\n0, \n1,b\n", "line 2: a class id or name is wrong"),
        ("ClassId,Name\n0\n1,b\n", "line 2: a class id or name is wrong"),
        (b"ClassId,Name\n0,Tr\xe4ger\n1,b\n", "is not in UTF-8"),
        ('ClassId,Name\n0,a\n1,"b\n', "cannot be read (unexpected end of data)"),
        (f"ClassId,Name\n0,a\n1,{'b' * 200_000}\n", "cannot be read (field larger than"),
    ],
)
def test_unusable_labels_are_refused(labels, expected, tmp_path):
    write_labels(tmp_path, labels)
    message = refusal(tmp_path)
    assert str(tmp_path / "own/labels.csv") in message
    assert expected in message


def test_labels_that_cannot_be_opened_are_refused(tmp_path):
    write_labels(tmp_path, "")
    path = tmp_path / "own/labels.csv"
    path.unlink()
    path.symlink_to(tmp_path / "gone.csv")
    assert f"{path} cannot be read" in refusal(tmp_path)


def test_the_case_of_the_name_of_labels_does_not_matter(tmp_path):
    lay(tmp_path, {"own/0/a.png": b"", "own/Labels.CSV": "ClassId,Name\n0,Stop\n"})
    assert layouts.read("own", tmp_path).names == {0: "Stop"}


# GTSRB


def gtsrb(folder: Path, change: Callable[[dict[str, bytes | str]], None] = lambda _: None) -> Path:
    """Two classes with two tracks of three frames each, and two test images.

    `change` may change the files of both archives of images, which it gets one after the other.
    """
    files: dict[str, bytes | str] = {}
    for label in (0, 14):
        lines = [HEADER]
        for track in range(2):
            for frame in range(3):
                name = f"{track:05d}_{frame:05d}.ppm"
                files[f"{TRAINING}/{label:05d}/{name}"] = photo(100 * label + 10 * track + frame)
                lines.append(f"{name};12;10;3;2;8;6;{label}")
        files[f"{TRAINING}/{label:05d}/GT-{label:05d}.csv"] = "\r\n".join(lines) + "\r\n"
    test: dict[str, bytes | str] = {
        f"GTSRB/Final_Test/Images/0000{n}.ppm": photo(900 + n) for n in range(2)
    }
    test["GTSRB/Final_Test/Images/GT-final_test.test.csv"] = "Filename;Width;Height\n"
    for name, content in ((GTSRB_TRAINING, files), (GTSRB_TEST, test)):
        change(content)
        pack(folder / name, content)
    rows = [HEADER, "00000.ppm;12;10;0;0;11;9;14", "00001.ppm;12;10;3;2;8;6;0"]
    pack(folder / GTSRB_TEST_LABELS, {"GT-final_test.csv": "\n".join(rows)})
    return folder


def test_the_training_archive_of_gtsrb(tmp_path):
    folder = gtsrb(tmp_path / "own")
    for name in (GTSRB_TEST, GTSRB_TEST_LABELS):
        (folder / name).unlink()
    dataset = layouts.read("own", tmp_path)
    table = dataset.table
    assert table["class_id"].tolist() == [0] * 6 + [14] * 6
    assert dataset.problems == []
    assert dataset.names[14] == "Stop"
    assert table["file"][0] == f"{GTSRB_TRAINING}/{TRAINING}/00000/00000_00000.ppm"
    # A track belongs to its class: number 00000 of class 14 is another physical sign.
    assert table.groupby("track").size().tolist() == [3] * 4
    assert (table.groupby("track")["class_id"].nunique() == 1).all()
    assert (table["fixed_split"] == "").all()
    assert set(layouts.regions(table)) == {(3 / 12, 2 / 10, 9 / 12, 7 / 10)}
    assert Reader(folder).read(table["file"][7]) == photo(100 * 14 + 1)


def test_the_test_archives_of_gtsrb_are_the_test_split(tmp_path):
    reader = Reader(gtsrb(tmp_path / "own"))
    table = layouts.read("own", tmp_path).table
    fixed = table[table["fixed_split"] == "test"]
    assert (len(table), len(fixed)) == (14, 2)
    assert fixed["class_id"].tolist() == [0, 14]
    assert fixed["track"].tolist() == ["", ""]
    assert layouts.regions(fixed) == [(0.25, 0.2, 0.75, 0.7), (0, 0, 1, 1)]
    assert [reader.read(file) for file in fixed["file"]] == [photo(901), photo(900)]


def test_regions_scale_with_the_image(tmp_path):
    """The CSV says 12 x 10; a copy with larger images must give the same crop."""
    sign = np.zeros((10, 12, 3), np.uint8)
    sign[2:7, 3:9] = 255
    large = cv2.resize(sign, (36, 30), interpolation=cv2.INTER_NEAREST)
    name = f"{TRAINING}/00000/00000_00000.ppm"
    content = cv2.imencode(".ppm", large)[1].tobytes()
    reader = Reader(gtsrb(tmp_path / "own", lambda files: files.update({name: content})))
    table = layouts.read("own", tmp_path).table
    image = images.decode(reader.read(table["file"][0]))
    assert image.shape == (30, 36, 3)
    settings = ImageSettings(size=15, color="rgb", contrast="none", margin=0.0)
    assert (images.prepare(image, settings, layouts.regions(table)[0]) == 255).all()


@pytest.mark.parametrize("absent", [GTSRB_TEST, GTSRB_TEST_LABELS])
def test_one_of_two_test_archives_is_refused(absent, tmp_path):
    (gtsrb(tmp_path / "own") / absent).unlink()
    assert f"but not {absent}; the test set needs both" in refusal(tmp_path)


def test_images_that_are_listed_but_absent_are_problems(tmp_path):
    absent = [f"{TRAINING}/00014/00001_00002.ppm", "GTSRB/Final_Test/Images/00001.ppm"]
    gtsrb(tmp_path / "own", lambda files: [files.pop(name, None) for name in absent] and None)
    dataset = layouts.read("own", tmp_path)
    assert len(dataset.table) == 12
    assert [Path(file).name for file, _ in dataset.problems] == ["00001_00002.ppm", "00001.ppm"]
    assert all("but not in the archive" in problem for _, problem in dataset.problems)


@pytest.mark.parametrize("name", [GTSRB_TEST_LABELS, GTSRB_TEST, GTSRB_TRAINING, "photos.zip"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.98])
def test_a_truncated_archive_is_named(name, share, tmp_path):
    path = tmp_path / "own" / name
    if name == "photos.zip":
        pack(path, {f"0/{n}.png": photo(n) for n in range(20)})
    else:
        gtsrb(path.parent)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(tmp_path)
    assert f"{path} cannot be read as a zip archive" in message
    assert "truncated: fetch it again" in message


TABLE = f"{TRAINING}/00000/GT-00000.csv"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Filename,ClassId\na.ppm,0\n", f" must have the columns {HEADER}"),
        ("", f" must have the columns {HEADER}"),
        (f"{HEADER.replace('ClassId', 'Class')}\n", " must have the columns"),
        (b"\xff\xfe\x00", " is not in UTF-8"),
        *[
            (f"{HEADER}\n00000_00001.ppm;12;10;3;2;8;6;0\n00000_00000.ppm;{row}\n", ", line 3: ")
            for row in (
                *["12;10;3;2;8;6;stop", "twelve;10;3;2;8;6;0", "12.5;10;3;2;8;6;0"],
                *["0;0;0;0;0;0;0", "12;10;8;2;3;6;0", "12;10;3;2;12;6;0", "12;10"],
            )
        ],
    ],
)
def test_an_unusable_table_of_gtsrb_is_refused(content, expected, tmp_path):
    gtsrb(tmp_path / "own", lambda files: files.update({TABLE: content}))
    assert f"{GTSRB_TRAINING}/{TABLE}{expected}" in refusal(tmp_path)


def test_a_damaged_or_missing_table_of_gtsrb_is_refused(tmp_path):
    path = gtsrb(tmp_path / "own") / GTSRB_TRAINING
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.getinfo(TABLE).header_offset + 30 + len(TABLE)
    content[start + 5 : start + 25] = b"\xff" * 20
    path.write_bytes(content)
    assert f"{TABLE} cannot be read" in refusal(tmp_path)
    pack(path, {f"{TRAINING}/00000/00000_00000.ppm": photo()})
    assert f"{GTSRB_TRAINING} holds no CSV table" in refusal(tmp_path)


# Data sets that are known by name


def test_incomplete_copies_of_known_data_sets_are_refused(tmp_path):
    gtsrb(tmp_path / "gtsrb")
    message = refusal(tmp_path, "gtsrb")
    assert "holds 12 training images, the full set has 39,209" in message
    assert "give the folder another name" in message
    lay(tmp_path, {"signs/0/a.png": b"", "signs/1/a.png": b""})
    assert "holds 2 training images, the full set has 4,170" in refusal(tmp_path, "signs")


def test_names_of_the_synthetic_set_are_in_its_folder(tmp_path):
    names = b"ClassId,Name\n0,Speed limit (20 km/h)\n14,Stop\n"
    lay(tmp_path, {"synthetic/14/a.png": b"", "synthetic/labels.csv": names})
    assert layouts.read("synthetic", tmp_path).names == {14: "Stop"}
    lay(tmp_path, {"synthetic/43/a.png": b""})
    assert "has no name for class 43" in refusal(tmp_path, "synthetic")
