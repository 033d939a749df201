"""Raw data sets, whatever their layout, as one table.

A data set is a folder under data/ and holds one of:
- class sub-folders with image files (folder name = class id, or class name), also in zip archives;
- the official archives of the German benchmark (GTSRB), read in place: Stallkamp et al.,
  "Man vs. computer", Neural Networks 32 (2012).

Class names come from labels.csv in the folder, else from signs/data/labels/<set>.csv, else
from the folder names.
"""

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import isnan, nan
from pathlib import Path, PurePath, PurePosixPath

import pandas as pd

from signs.data.archives import Archive
from signs.data.images import REGION, SUFFIXES, Region
from signs.errors import UserError
from signs.paths import DATA

LABELS = Path(__file__).parent / "labels"

GTSRB_TRAINING = "GTSRB_Final_Training_Images.zip"
GTSRB_TEST = "GTSRB_Final_Test_Images.zip"
GTSRB_TEST_LABELS = "GTSRB_Final_Test_GT.zip"
GTSRB_COLUMNS = ["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]

# Sets that are known under their name must be whole. Copies of GTSRB with 26,640 training
# images (class 0: 150) are in circulation; accuracies on them compare with nothing.
EXPECTED_FILES = {"signs": {"training": 4_170}, "gtsrb": {"training": 39_209, "test": 12_630}}

SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}
IN_ARCHIVE = re.compile(r"(.+?\.zip)/(.+)", re.IGNORECASE | re.DOTALL)
# What lies beside the class folders and may be meant to be read. Notes may lie there, too.
LOOSE_DATA = {".csv", ".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}

COLUMNS = ["file", "class_id", "track", "fixed_split", *REGION]

Row = tuple[object, ...]  # in the order of COLUMNS
Problem = tuple[str, str]  # file, what is wrong with it


class DatasetError(UserError):
    """A data set is missing, damaged or contradicts itself."""


@dataclass
class Dataset:
    """A raw data set.

    `table` has one row an image: file (path below the folder; archives count as folders),
    class_id, track (photos of one physical sign; "" if unknown), fixed_split ("test" if the set
    says so, else ""), left/top/right/bottom (the sign's region in shares of width and height;
    NaN if the whole image is the sign).
    """

    folder: Path
    table: pd.DataFrame
    names: dict[int, str]  # of the class ids
    problems: list[Problem] = field(default_factory=list)  # all that was left out of the table


def read(name: str, data: Path = DATA) -> Dataset:
    """The images of the data set `name`; decodes none of them.

    A set that is missing, empty, incomplete or damaged, or unusable labels: `DatasetError`.
    """
    folder = data / name
    if not folder.is_dir():
        raise DatasetError(
            f"The data set {name!r} is not there: {folder} is missing. {_how_to_get(name)}"
        )
    is_gtsrb = (folder / GTSRB_TRAINING).exists()
    rows, problems, names = _gtsrb(folder) if is_gtsrb else _class_folders(folder)
    if not rows:
        raise DatasetError(
            f"{folder} holds no images. Expected class sub-folders with images, zip archives "
            f"of such, or {GTSRB_TRAINING}. {_how_to_get(name)}"
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    _check_count(name, table)
    labels = [path for path in sorted(folder.iterdir()) if _is_labels(path)]
    labels += filter(Path.exists, [LABELS / f"{name}.csv", *[LABELS / "gtsrb.csv"] * is_gtsrb])
    path = next(iter(labels), None)
    names = read_labels(path) if path else names
    class_ids = sorted(table["class_id"].unique())
    missing = [str(i) for i in class_ids if i not in names]
    if missing:
        raise DatasetError(f"{path} has no name for class {', '.join(missing)}.")
    return Dataset(folder, table, {i: names[i] for i in class_ids}, problems)


def regions(table: pd.DataFrame) -> list[Region | None]:
    """The sign's region on each photo; None where it is the whole image."""
    return [
        None if isnan(left) else (left, top, right, bottom)
        for left, top, right, bottom in table[REGION].to_numpy(dtype=float).tolist()
    ]


class Reader:
    """Reads files of a data set by the table's `file` column; keeps its archives open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archive = cache(lambda name: Archive(folder / name))

    def read(self, file: str) -> bytes:
        """The file's bytes; OSError or zipfile.BadZipFile if it cannot be read."""
        if in_archive := IN_ARCHIVE.fullmatch(file):
            return self._archive(in_archive[1]).read(in_archive[2])
        return (self._folder / file).read_bytes()


def _how_to_get(name: str) -> str:
    if name in ("synthetic", "ood", "auxiliary_outliers"):
        return "`dvc repro synthesize` makes it."
    return {
        "signs": "`make data` fetches it, or `dvc pull data.dvc` from your team's remote.",
        "gtsrb": "docs/data.md says which official archives belong there, or `dvc pull gtsrb.dvc`.",
    }.get(name, f"Put one sub-folder for each class into data/{name}.")


def _check_count(name: str, table: pd.DataFrame) -> None:
    tested = int((table["fixed_split"] == "test").sum())
    counts = {"training": len(table) - tested, "test": tested}
    for part, expected in EXPECTED_FILES.get(name, {}).items():
        found = counts[part]
        if found != expected and (found or part == "training"):
            raise DatasetError(
                f"data/{name} holds {found:,} {part} images, the full set has {expected:,}: "
                f"this is another or an incomplete copy. {_how_to_get(name)} "
                "To use it all the same, give the folder another name."
            )


def _class_folders(folder: Path) -> tuple[list[Row], list[Problem], dict[int, str]]:
    """Images by class sub-folder, in the folder itself and in its zip archives."""
    by_class, problems = _files_by_class(folder)
    named = sorted(name for name in by_class if not name.isdecimal())
    if named and len(named) < len(by_class):
        raise DatasetError(
            f"{folder} mixes numbered class folders with named ones ({', '.join(named[:5])}); "
            "use numbers for all classes or names for all."
        )
    # 10 comes after 9, not after 1: text order would give the classes wrong names.
    order = named or sorted(by_class, key=int)
    ids = list(range(len(named))) or [int(name) for name in order]
    repeated = sorted({str(i) for i in ids if ids.count(i) > 1})
    if repeated:
        raise DatasetError(f"{folder} has several folders for class {', '.join(repeated)}.")
    rows: list[Row] = []
    for class_id, name in zip(ids, order, strict=True):
        if not by_class[name]:
            problems.append((name, "the class folder is empty"))
        rows += [(file, class_id, "", "", *[nan] * 4) for file in by_class[name]]
    return rows, problems, dict(zip(ids, order, strict=True))


def _files_by_class(folder: Path) -> tuple[dict[str, list[str]], list[Problem]]:
    """The files of each class folder, and the images that are in none."""
    by_class: dict[str, list[str]] = {}
    problems: list[Problem] = []
    too_deep: list[str] = []
    for path in sorted(path for path in folder.iterdir() if path.name[0] != "."):
        is_folder, is_archive = path.is_dir(), path.suffix.lower() == ".zip"
        found: list[PurePath] = [path.relative_to(folder)]
        if is_folder:
            by_class.setdefault(path.name, [])
            found = [p.relative_to(folder) for p in sorted(path.rglob("*")) if p.is_file()]
        elif is_archive:
            found = [PurePosixPath(path.name, member) for member in _members(path)]
        for file in found:
            name, depth = file.as_posix(), len(file.parts)
            if file.name.startswith("."):
                continue
            if is_folder and depth > 2:
                too_deep.append(name)
            if depth > 1 + is_archive:
                by_class.setdefault(file.parent.name, []).append(name)
            elif file.suffix.lower() in SUFFIXES:
                problems.append((name, "is in no class folder"))
            elif file.suffix.lower() in LOOSE_DATA and not _is_labels(folder / file):
                problems.append((name, "is not read: no photo, zip archive or labels.csv here"))
    _refuse_given_split(folder, by_class)
    if too_deep:
        raise DatasetError(
            f"{folder / too_deep[0]} is too deep: images belong directly into their "
            f"class folder, as in {folder.name}/<class>/<image>."
        )
    return by_class, problems


def _is_labels(path: Path) -> bool:
    return path.name.lower() == "labels.csv" and path.parent.suffix.lower() != ".zip"


def _refuse_given_split(folder: Path, by_class: dict[str, list[str]]) -> None:
    """`DatasetError` if class folders stand in split folders: to mix them would lose the split."""
    level = 0 if all(map(_is_split, by_class)) else 1  # 0: there are no class folders
    parents = {PurePosixPath(file).parents[level] for files in by_class.values() for file in files}
    splits = {next(filter(_is_split, parent.parts), "") for parent in parents}
    if len(splits) > 1:
        raise DatasetError(
            f"{folder} is split already ({', '.join(sorted(splits - {''}))}). A given split cannot "
            "be kept yet. To have all photos split anew, without a leak, put them into one set of "
            f"class folders, as in {folder.name}/<class>/<image>. To use one part, remove the rest."
        )


def _is_split(name: str) -> bool:
    return name.lower().removesuffix(".zip") in SPLIT_FOLDERS


def _gtsrb(folder: Path) -> tuple[list[Row], list[Problem], dict[int, str]]:
    rows, problems = _gtsrb_archive(folder / GTSRB_TRAINING, folder / GTSRB_TRAINING, "")
    present = [name for name in (GTSRB_TEST, GTSRB_TEST_LABELS) if (folder / name).exists()]
    if len(present) == 1:
        (absent,) = {GTSRB_TEST, GTSRB_TEST_LABELS} - {*present}
        raise DatasetError(f"{folder} has {present[0]} but not {absent}; the test set needs both.")
    if present:
        tested = _gtsrb_archive(folder / GTSRB_TEST, folder / GTSRB_TEST_LABELS, "test")
        rows, problems = rows + tested[0], problems + tested[1]
    return rows, problems, {}


def _gtsrb_archive(images: Path, tables: Path, split: str) -> tuple[list[Row], list[Problem]]:
    """Rows from the CSVs in `tables` for the images in `images`."""
    members = set(_members(images))
    by_name = {PurePosixPath(member).name: member for member in members}
    found = [member for member in sorted(_members(tables)) if member.endswith(".csv")]
    if not found:
        raise DatasetError(f"{tables} holds no CSV table with regions and classes.")
    rows: list[Row] = []
    problems: list[Problem] = []
    for table in found:
        for name, class_id, region in _gtsrb_table(tables, table):
            member = str(PurePosixPath(table).parent / name)
            if split:
                member = by_name.get(name, member)
            file = f"{images.name}/{member}"
            if member not in members:
                problems.append((file, f"listed in {table} but not in the archive"))
                continue
            track = "" if split else f"{class_id}/{name.split('_')[0]}"
            rows.append((file, class_id, track, split, *region))
    return rows, problems


def _gtsrb_table(archive: Path, table: str) -> Iterator[tuple[str, int, Region]]:
    """File name, class id and region of each row; a region's edges in the CSV belong to it."""
    place = f"{archive.name}/{table}"
    try:
        with zipfile.ZipFile(archive) as opened:
            text = opened.read(table).decode("utf-8")
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
        raise DatasetError(f"{place} cannot be read: {error}.") from error
    reader = csv.DictReader(io.StringIO(text), delimiter=";")
    if list(reader.fieldnames or []) != GTSRB_COLUMNS:
        raise DatasetError(f"{place} must have the columns {';'.join(GTSRB_COLUMNS)}.")
    for row in reader:
        try:
            width, height, x1, y1, x2, y2, class_id = (int(row[c]) for c in GTSRB_COLUMNS[1:])
            if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
                raise ValueError(f"{x1} to {x2} of {width}, {y1} to {y2} of {height} pixels")
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"{place}, line {reader.line_num}: a value is missing, is "
                f"no whole number, or the region lies outside of the image ({error})."
            ) from error
        region = (x1 / width, y1 / height, (x2 + 1) / width, (y2 + 1) / height)
        yield row["Filename"], class_id, region


def _members(path: Path) -> list[str]:
    """The archive's files; `DatasetError` if it is truncated, no zip, or has unsafe paths."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DatasetError(
            f"{path} cannot be read as a zip archive ({error}); it may be truncated: "
            "fetch it again."
        ) from error
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name:
            raise DatasetError(f"{path} holds the path {name!r}, which leaves the archive.")
    return names


def read_labels(path: Path) -> dict[int, str]:
    """Class id → name from a CSV with the columns ClassId and Name; `DatasetError` otherwise."""
    try:
        text = io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")
        reader = csv.DictReader(text, strict=True)
        rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not in UTF-8 ({error}); save it in UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read ({error}). Repair or remove it.") from error
    if not {"ClassId", "Name"} <= set(reader.fieldnames or []):
        raise DatasetError(f"{path} must have the columns ClassId,Name; found {reader.fieldnames}.")
    names: dict[int, str] = {}
    for line, row in rows:
        class_id, name = (row["ClassId"] or "").strip(), (row["Name"] or "").strip()
        place = f"{path}, line {line}"
        if not class_id.isdecimal() or not name:
            raise DatasetError(f"{place}: a class id or name is wrong.")
        if int(class_id) in names:
            raise DatasetError(f"{place}: class {class_id} is named twice. Remove one of the rows.")
        names[int(class_id)] = name
    return names
