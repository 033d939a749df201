"""The layout of the German benchmark, its copies and its relatives.

J. Stallkamp et al., "Man vs. computer", Neural Networks 32 (2012). BelgiumTSC has it, too.
"""

import re
from pathlib import PurePosixPath

from signs.data.images import Region
from signs.data.layouts.found import TEST, Found, Sign, split_of
from signs.data.layouts.tree import DatasetError, Row, Tree, plain

COLUMNS = ["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]
FRAME = re.compile(r"(?:\d{5}_)?(\d{5})_\d{5}\.\w+")  # (class,) track and frame
CLASSES = range(43)
TRAINING = "GTSRB_Final_Training_Images.zip"
TEST_IMAGES, TEST_TABLE = "GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip"


def official(tree: Tree) -> Found | None:
    """Tables called GT-*.csv with regions and classes, in the official archives or unpacked.

        GTSRB_Final_Training_Images.zip      00000/GT-00000.csv
        GTSRB_Final_Test_Images.zip          00000/00000_00000.ppm
        GTSRB_Final_Test_GT.zip              00000/00000_00001.ppm

    A photo's name holds the number of its track. Test photos have names of their own.
    """
    tables = [file for file in tree.named(".csv") if _is_table(file)]
    archives = {file.partition("/")[0] for file in tree.files}
    if not tables and TRAINING not in archives:
        return None
    present = {TEST_IMAGES, TEST_TABLE} & archives
    if len(present) == 1:
        (there,), (absent,) = present, {TEST_IMAGES, TEST_TABLE} - present
        raise DatasetError(f"{tree.folder} has {there} but not {absent}; the test set needs both.")
    if TRAINING in archives:
        tables = [file for file in tables if file.startswith((f"{TRAINING}/", f"{TEST_TABLE}/"))]
    if TRAINING in archives and not any(file.startswith(f"{TRAINING}/") for file in tables):
        raise DatasetError(f"{tree.folder / TRAINING} holds no CSV table with regions and classes.")
    found = Found([])
    photos = set(tree.photos)
    for table in sorted(tables, key=_is_test):
        if plain("ClassId") not in (columns := tree.columns(table)) and _is_test(table):
            continue  # the test's table as it was before its classes were published
        if columns != list(map(plain, COLUMNS)):
            raise DatasetError(f"{tree.folder / table} must have the columns {';'.join(COLUMNS)}.")
        folder = table.rpartition("/")[0]
        for row in tree.rows(table):
            name, class_id, region = _values(tree, table, row)
            file = f"{folder}/{name}".lstrip("/")
            split = TEST if _is_test(table) else ""
            if file not in photos and len(namesakes := tree.named_photos.get(name, [])) == 1 and split:
                (file,) = namesakes
            if file not in photos:
                place = "the archive" if ".zip/" in file.lower() else "the folder"
                found.problems.append((file, f"listed in {table} but not in {place}"))
                continue
            frame = FRAME.fullmatch(name)
            track = f"{class_id}/{frame[1]}" if frame and not split else ""
            found.signs.append(Sign(file, str(class_id), split, track, region))
    return found


def kaggle(tree: Tree) -> Found | None:
    """Train.csv and Test.csv with regions, classes and paths: the most downloaded copy.

        Train.csv      Train/0/00000_00000_00000.png
        Test.csv       Test/00000.png
        Meta.csv       Meta/0.png
    """
    wanted = {plain(column) for column in ("Path", *COLUMNS[1:])}
    tables = [file for file in tree.named(".csv") if wanted <= set(tree.columns(file))]
    if not tables:
        return None
    found, photos = Found([]), set(tree.photos)
    for table in tables:
        folder = table.rpartition("/")[0]
        split = split_of(PurePosixPath(table).stem)
        for row in tree.rows(table):
            _, class_id, region = _values(tree, table, row)
            file = f"{folder}/{row.values['path']}".lstrip("/")
            if file not in photos:
                found.problems.append((file, f"listed in {table} but not there"))
                continue
            frame = FRAME.fullmatch(PurePosixPath(file).name)
            track = f"{class_id}/{frame[1]}" if frame and split != TEST else ""
            # Photos of all other tables are for training, and validation is taken from them.
            found.signs.append(Sign(file, str(class_id), TEST * (split == TEST), track, region))
    listed = {sign.file for sign in found.signs}
    rest = [file for file in tree.photos if file not in listed]
    found.notes += [(file, "is listed in no table") for file in rest]
    return found


def _is_table(file: str) -> bool:
    return PurePosixPath(file).name.upper().startswith("GT-")


def _is_test(table: str) -> bool:
    parts = re.split(r"[/_.-]", table)
    return any(split_of(part) == TEST for part in parts)


def _values(tree: Tree, table: str, row: Row) -> tuple[str, int, Region]:
    """File name, class id and region of a row; a region's edges in the table belong to it."""
    try:
        numbers = [int(row.values[plain(column)]) for column in COLUMNS[1:]]
        region = region_of(*numbers[:6])
    except (KeyError, ValueError) as error:
        raise DatasetError(
            f"{tree.folder / table}, line {row.line}: a value is missing, is no whole number, or "
            f"the region lies outside of the image ({error})."
        ) from error
    return row.values.get("filename", ""), numbers[6], region


def region_of(width: int, height: int, x1: int, y1: int, x2: int, y2: int) -> Region:
    """The region of pixels x1 to x2 and y1 to y2; ValueError if it leaves the photo."""
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
        raise ValueError(f"{x1} to {x2} of {width}, {y1} to {y2} of {height} pixels")
    return x1 / width, y1 / height, (x2 + 1) / width, (y2 + 1) / height
