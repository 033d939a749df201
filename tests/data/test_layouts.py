"""Raw photo sets: folders, archives, the official GTSRB layout, and what may be wrong with them."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from signs.data import layouts
from signs.data import images
from signs.data.layouts import GTSRB_TEST, GTSRB_TEST_LABELS, GTSRB_TRAINING, DatasetError, Reader
from signs.params import ImageSettings

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
TRAINING = "GTSRB/Final_Training/Images"


def photo(value: int = 0, width: int = 12, height: int = 10, kind: str = ".ppm") -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(kind, pixels)[1].tobytes()


def lay(folder: Path, files: Mapping[str, bytes | str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def pack(path: Path, files: Mapping[str, bytes | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def refusal(data: Path, name: str = "own") -> str:
    with pytest.raises(DatasetError) as caught:
        layouts.read(name, data)
    return str(caught.value)


# folders


def test_classes_in_numeric_order(tmp_path: Path) -> None:
    lay(tmp_path, {f"own/{c}/{n}.png": b"x" for c in (10, 2, 0, 1) for n in range(c + 1)})
    found = layouts.read("own", tmp_path)
    assert found.table["class_id"].value_counts(sort=False).to_dict() == {0: 1, 1: 2, 2: 3, 10: 11}
    assert found.table["class_id"].is_monotonic_increasing
    assert all(f.split("/")[0] == str(c) for f, c in found.table[["file", "class_id"]].to_numpy())
    assert found.names == {0: "0", 1: "1", 2: "2", 10: "10"}
    assert found.problems == []
    assert (found.table["track"] == "").all()
    assert (found.table["fixed_split"] == "").all()
    assert found.table[["left", "top", "right", "bottom"]].isna().all().all()


def test_leading_zeros_are_numbers(tmp_path: Path) -> None:
    lay(tmp_path, {f"own/{c:05d}/a.png": b"x" for c in (3, 20, 100)})
    assert layouts.read("own", tmp_path).table["class_id"].tolist() == [3, 20, 100]


def test_named_classes(tmp_path: Path) -> None:
    lay(tmp_path, {"own/yield/a.png": b"", "own/stop/b.png": b"", "own/Give way/c.png": b""})
    found = layouts.read("own", tmp_path)
    assert found.names == {0: "Give way", 1: "stop", 2: "yield"}
    assert found.table["file"].tolist() == ["Give way/c.png", "stop/b.png", "yield/a.png"]
    assert found.table["class_id"].tolist() == [0, 1, 2]


def test_numbers_and_names_mixed(tmp_path: Path) -> None:
    lay(tmp_path, {"own/0/a.png": b"", "own/1/a.png": b"", "own/stop/a.png": b""})
    said = refusal(tmp_path)
    assert "mixes numbered class folders with named ones (stop)" in said


def test_two_folders_for_one_class(tmp_path: Path) -> None:
    lay(tmp_path, {"own/1/a.png": b"", "own/01/b.png": b"", "own/2/c.png": b""})
    assert "several folders for class 1." in refusal(tmp_path)


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    files = {"0/a.png": b"", "0/.DS_Store": b"", ".git/x.png": b"", ".hidden": b"", "note.txt": b""}
    lay(tmp_path / "own", files)
    found = layouts.read("own", tmp_path)
    assert found.table["file"].tolist() == ["0/a.png"]
    assert found.problems == []


def test_empty_class_folder_is_listed(tmp_path: Path) -> None:
    lay(tmp_path, {"own/0/a.png": b"", "own/1/.keep": b""})
    (tmp_path / "own/2").mkdir()
    found = layouts.read("own", tmp_path)
    assert found.table["class_id"].tolist() == [0]
    assert found.problems == [
        ("1", "the class folder is empty"),
        ("2", "the class folder is empty"),
    ]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("synthetic", "dvc repro synthesize"),
        ("signs", "make data"),
        ("gtsrb", "official archives"),
        ("own", "one sub-folder for each class into data/own"),
    ],
)
def test_missing_folder(name: str, advice: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, name)
    assert f"{tmp_path / name} is missing" in said
    assert advice in said


@pytest.mark.parametrize("content", [{}, {"photo.png": b""}, {".x/a.png": b""}])
def test_empty_folder(content: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    lay(tmp_path / "own", content)
    assert "holds no images" in refusal(tmp_path)


def test_only_empty_class_folders(tmp_path: Path) -> None:
    (tmp_path / "own/0").mkdir(parents=True)
    assert "holds no images" in refusal(tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    lay(tmp_path, {"own": b""})
    assert "is missing" in refusal(tmp_path)


# archives of class folders


def test_archive_of_class_folders(tmp_path: Path) -> None:
    content = {f"set/{c}/{n}.png": photo(10 * c + n, kind=".png") for c in (10, 9) for n in (0, 1)}
    pack(tmp_path / "own/photos.zip", content)
    found = layouts.read("own", tmp_path)
    assert found.table["class_id"].tolist() == [9, 9, 10, 10]
    assert found.table["file"].tolist()[0] == "photos.zip/set/9/0.png"
    reader = Reader(tmp_path / "own")
    for file in found.table["file"]:
        assert reader.read(file) == content[file.removeprefix("photos.zip/")]


def test_archives_and_folders_add_up(tmp_path: Path) -> None:
    pack(tmp_path / "own/a.zip", {"0/x.png": b"1", "1/x.png": b"2"})
    pack(tmp_path / "own/b.zip", {"1/x.png": b"3"})
    lay(tmp_path / "own", {"0/y.png": b"4"})
    found = layouts.read("own", tmp_path)
    reader = Reader(tmp_path / "own")
    assert {(f, c, reader.read(f)) for f, c in found.table[["file", "class_id"]].to_numpy()} == {
        ("a.zip/0/x.png", 0, b"1"),
        ("a.zip/1/x.png", 1, b"2"),
        ("b.zip/1/x.png", 1, b"3"),
        ("0/y.png", 0, b"4"),
    }


def test_hidden_files_in_archives_are_ignored(tmp_path: Path) -> None:
    content = {"0/a.png": b"", "0/.DS_Store": b"", "__MACOSX/0/._a.png": b"", "readme.txt": b""}
    pack(tmp_path / "own/a.zip", content)
    assert layouts.read("own", tmp_path).table["file"].tolist() == ["a.zip/0/a.png"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_truncated_archive(share: float, tmp_path: Path) -> None:
    path = tmp_path / "own/photos.zip"
    pack(path, {f"0/{n}.png": photo(n) for n in range(20)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    said = refusal(tmp_path)
    assert f"{path} cannot be read as a zip archive" in said
    assert "truncated" in said


@pytest.mark.parametrize("bad", ["../evil/0.png", "0/../../evil.png", "/etc/0.png", "0\\..\\x.png"])
@pytest.mark.parametrize("archive", ["photos.zip", GTSRB_TRAINING])
def test_path_that_leaves_the_archive(bad: str, archive: str, tmp_path: Path) -> None:
    pack(tmp_path / "own" / archive, {"0/a.png": b"", bad: b""})
    assert f"holds the path {bad!r}, which leaves the archive" in refusal(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == []


def test_damaged_member_is_one_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "own/photos.zip"
    pack(path, {"0/a.png": bytes(range(256)) * 20, "0/b.png": b"whole"})
    content = bytearray(path.read_bytes())
    content[45:60] = b"\xff" * 15
    path.write_bytes(content)
    reader = Reader(tmp_path / "own")
    with pytest.raises(zipfile.BadZipFile):
        reader.read("photos.zip/0/a.png")
    with pytest.raises(zipfile.BadZipFile):
        reader.read("photos.zip/0/c.png")
    assert reader.read("photos.zip/0/b.png") == b"whole"


# labels


def with_labels(tmp_path: Path, labels: str | bytes) -> None:
    lay(tmp_path, {"own/0/a.png": b"", "own/1/a.png": b"", "own/labels.csv": labels})


def test_names_from_labels(tmp_path: Path) -> None:
    text = 'ClassId,Name,Note\n2,Unused,\n1, Yield ,x\n0,"Stop, all way",\n'
    with_labels(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert layouts.read("own", tmp_path).names == {0: "Stop, all way", 1: "Yield"}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("Id,Name\n0,a\n1,b\n", "must have the columns ClassId,Name; found ['Id', 'Name']"),
        ("0,a\n1,b\n", "must have the columns ClassId,Name"),
        ("ClassId;Name\n0;a\n1;b\n", "must have the columns ClassId,Name"),
        ("", "must have the columns ClassId,Name; found None"),
        ("ClassId,Name\n0,a\n1,b\n0,c\n", "names class 0 twice"),
        ("ClassId,Name\n0,a\n00,c\n1,b\n", "names class 0 twice"),
        ("ClassId,Name\n0,a\n", "has no name for class 1"),
        ("ClassId,Name\n7,a\n", "has no name for class 0, 1"),
        ("ClassId,Name\n0,a\nstop,b\n", "line 3: a class id or name is wrong"),
        ("ClassId,Name\n0,a\n1.0,b\n", "line 3: a class id or name is wrong"),
        ("ClassId,Name\n0,a\n-1,b\n", "line 3: a class id or name is wrong"),
        ("ClassId,Name\n0, \n1,b\n", "line 2: a class id or name is wrong"),
        ("ClassId,Name\n0\n1,b\n", "line 2: a class id or name is wrong"),
        (b"ClassId,Name\n0,Tr\xe4ger\n1,b\n", "is not in UTF-8"),
    ],
)
def test_unusable_labels(labels: str | bytes, said: str, tmp_path: Path) -> None:
    with_labels(tmp_path, labels)
    message = refusal(tmp_path)
    assert str(tmp_path / "own/labels.csv") in message
    assert said in message


# GTSRB


def gtsrb(
    folder: Path,
    change: Callable[[dict[str, bytes | str]], None] = lambda _: None,
    test: Callable[[dict[str, bytes | str]], None] | None = None,
) -> None:
    """Two classes with two tracks of three frames each, 12 x 10 pixels; two test images."""
    files: dict[str, bytes | str] = {}
    for label in (0, 14):
        lines = [HEADER]
        for track in range(2):
            for frame in range(3):
                name = f"{track:05d}_{frame:05d}.ppm"
                files[f"{TRAINING}/{label:05d}/{name}"] = photo(100 * label + 10 * track + frame)
                lines.append(f"{name};12;10;3;2;8;6;{label}")
        files[f"{TRAINING}/{label:05d}/GT-{label:05d}.csv"] = "\r\n".join(lines) + "\r\n"
    change(files)
    pack(folder / GTSRB_TRAINING, files)
    if test:
        pictures: dict[str, bytes | str] = {
            f"GTSRB/Final_Test/Images/0000{n}.ppm": photo(900 + n) for n in range(2)
        }
        pictures["GTSRB/Final_Test/Images/GT-final_test.test.csv"] = "Filename;Width;Height\n"
        tables: dict[str, bytes | str] = {
            "GT-final_test.csv": "\n".join(
                [HEADER, "00000.ppm;12;10;0;0;11;9;14", "00001.ppm;12;10;3;2;8;6;0"]
            )
        }
        test(pictures)
        pack(folder / GTSRB_TEST, pictures)
        pack(folder / GTSRB_TEST_LABELS, tables)


def test_training_archive(tmp_path: Path) -> None:
    gtsrb(tmp_path / "own")
    found = layouts.read("own", tmp_path)
    table = found.table
    assert len(table) == 12
    assert table["class_id"].tolist() == [0] * 6 + [14] * 6
    assert found.problems == []
    assert table["file"][0] == f"{GTSRB_TRAINING}/{TRAINING}/00000/00000_00000.ppm"
    # A track belongs to its class: number 00000 of class 14 is another physical sign.
    assert table.groupby("track").size().tolist() == [3] * 4
    assert (table.groupby("track")["class_id"].nunique() == 1).all()
    assert (table["fixed_split"] == "").all()
    assert table["left"].eq(3 / 12).all()
    assert table["top"].eq(2 / 10).all()
    assert table["right"].eq(9 / 12).all()
    assert table["bottom"].eq(7 / 10).all()
    reader = Reader(tmp_path / "own")
    assert reader.read(table["file"][7]) == photo(100 * 14 + 1)


def test_test_archives_are_the_test_split(tmp_path: Path) -> None:
    gtsrb(tmp_path / "own", test=lambda _: None)
    table = layouts.read("own", tmp_path).table
    assert len(table) == 14
    fixed = table[table["fixed_split"] == "test"]
    assert fixed["class_id"].tolist() == [14, 0]
    assert fixed["track"].tolist() == ["", ""]
    assert fixed[["left", "top", "right", "bottom"]].to_numpy().tolist() == [
        [0, 0, 1, 1],
        [0.25, 0.2, 0.75, 0.7],
    ]
    reader = Reader(tmp_path / "own")
    assert [reader.read(file) for file in fixed["file"]] == [photo(900), photo(901)]


def test_regions_scale_with_the_image(tmp_path: Path) -> None:
    """The CSV says 12 x 10; a copy with larger images must give the same crop."""
    sign = np.zeros((10, 12, 3), np.uint8)
    sign[2:7, 3:9] = 255
    large = cv2.resize(sign, (36, 30), interpolation=cv2.INTER_NEAREST)
    name = f"{TRAINING}/00000/00000_00000.ppm"
    gtsrb(tmp_path / "own", lambda f: f.update({name: cv2.imencode(".ppm", large)[1].tobytes()}))
    table = layouts.read("own", tmp_path).table
    row = table[table["file"].str.endswith(name)].iloc[0]
    image = images.decode(Reader(tmp_path / "own").read(row["file"]))
    region = tuple(row[["left", "top", "right", "bottom"]])
    settings = ImageSettings(size=15, color="rgb", contrast="none", margin=0.0)
    assert image.shape == (30, 36, 3)
    assert (images.prepare(image, settings, region) == 255).all()


@pytest.mark.parametrize("absent", [GTSRB_TEST, GTSRB_TEST_LABELS])
def test_one_of_two_test_archives(absent: str, tmp_path: Path) -> None:
    gtsrb(tmp_path / "own", test=lambda _: None)
    (tmp_path / "own" / absent).unlink()
    assert f"but not {absent}; the test set needs both" in refusal(tmp_path)


def test_listed_but_absent(tmp_path: Path) -> None:
    gtsrb(
        tmp_path / "own",
        lambda f: f.pop(f"{TRAINING}/00014/00001_00002.ppm") and None,
        lambda f: f.pop("GTSRB/Final_Test/Images/00001.ppm") and None,
    )
    found = layouts.read("own", tmp_path)
    assert len(found.table) == 12
    assert [(Path(f).name, "not in the archive" in p) for f, p in found.problems] == [
        ("00001_00002.ppm", True),
        ("00001.ppm", True),
    ]


def test_truncated_gtsrb(tmp_path: Path) -> None:
    gtsrb(tmp_path / "own", test=lambda _: None)
    for name in (GTSRB_TEST_LABELS, GTSRB_TEST, GTSRB_TRAINING):
        path = tmp_path / "own" / name
        path.write_bytes(path.read_bytes()[:-30])
        said = refusal(tmp_path)
        assert name in said
        assert "truncated" in said


def test_gtsrb_without_tables(tmp_path: Path) -> None:
    pack(tmp_path / "own" / GTSRB_TRAINING, {f"{TRAINING}/00000/00000_00000.ppm": photo()})
    assert f"{GTSRB_TRAINING} holds no CSV table" in refusal(tmp_path)


TABLE = f"{TRAINING}/00000/GT-00000.csv"
ROW = "00000_00000.ppm;12;10;3;2;8;6;0"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Filename,ClassId\na.ppm,0\n", f"{TABLE} must have the columns {HEADER}"),
        ("", f"{TABLE} must have the columns {HEADER}"),
        (f"{HEADER.replace('ClassId', 'Class')}\n{ROW}\n", "must have the columns"),
        (f"{HEADER}\n{ROW}\n00000_00001.ppm;12;10;3;2;8;6;stop\n", f"{TABLE}, line 3: "),
        (f"{HEADER}\n00000_00000.ppm;twelve;10;3;2;8;6;0\n", f"{TABLE}, line 2: "),
        (f"{HEADER}\n00000_00000.ppm;12.5;10;3;2;8;6;0\n", f"{TABLE}, line 2: "),
        (f"{HEADER}\n00000_00000.ppm;0;0;0;0;0;0;0\n", f"{TABLE}, line 2: "),
        (f"{HEADER}\n00000_00000.ppm;12;10;8;2;3;6;0\n", f"{TABLE}, line 2: "),
        (f"{HEADER}\n00000_00000.ppm;12;10;3;2;12;6;0\n", f"{TABLE}, line 2: "),
        (f"{HEADER}\n00000_00000.ppm;12;10\n", f"{TABLE}, line 2: "),
        (b"\xff\xfe\x00", f"{TABLE} cannot be read"),
    ],
)
def test_unusable_table(content: str | bytes, said: str, tmp_path: Path) -> None:
    gtsrb(tmp_path / "own", lambda f: f.update({TABLE: content}))
    message = refusal(tmp_path)
    assert GTSRB_TRAINING in message
    assert said in message


def test_damaged_table(tmp_path: Path) -> None:
    path = tmp_path / "own" / GTSRB_TRAINING
    gtsrb(path.parent)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.getinfo(TABLE).header_offset + 30 + len(TABLE)
    content[start + 5 : start + 25] = b"\xff" * 20
    path.write_bytes(content)
    assert f"{TABLE} cannot be read" in refusal(tmp_path)


# known sets must be whole


def test_short_copy_of_gtsrb(tmp_path: Path) -> None:
    gtsrb(tmp_path / "gtsrb", test=lambda _: None)
    said = refusal(tmp_path, "gtsrb")
    assert "holds 12 training images, the full set has 39,209" in said
    assert "give the folder another name" in said


def test_short_copy_of_signs(tmp_path: Path) -> None:
    lay(tmp_path, {"signs/0/a.png": b"", "signs/1/a.png": b""})
    assert "holds 2 training images, the full set has 4,170" in refusal(tmp_path, "signs")


def test_the_names_of_what_is_drawn_lie_beside_it(tmp_path: Path) -> None:
    names = b"ClassId,Name\n0,Speed limit (20 km/h)\n14,Stop\n"
    lay(tmp_path, {"synthetic/14/a.png": b"", "synthetic/labels.csv": names})
    assert layouts.read("synthetic", tmp_path).names == {14: "Stop"}
    lay(tmp_path, {"synthetic/43/a.png": b""})
    assert "has no name for class 43" in refusal(tmp_path, "synthetic")
