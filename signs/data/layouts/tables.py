"""Layouts in which tables say what photos show."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from signs.data import images
from signs.data.images import Region
from signs.data.layouts.found import Found, Sign, split_in, split_of
from signs.data.layouts.tree import DatasetError, Row, Tree, plain

FILE: tuple[str, ...] = ("path", "filename", "filepath", "file", "image", "imagepath", "imagename", "imageid")
FILE += ("img", "imgpath", "photo", "id")
LABEL = ("classid", "label", "class", "classname", "category", "target", "choice", "tag", "labels")
SPLIT = ("split", "subset", "usage", "set")
TRACK = ("track", "trackid", "group", "groupid")
BOX = ("xmin", "ymin", "xmax", "ymax")
CHECKED = 20  # rows whose photos must exist, so that a table is one of photos


def photo_tables(tree: Tree) -> Found | None:
    """CSV tables with a photo in each row: its class, or a column of 0 and 1 for each class.

        labels.csv: filename,label     train/_classes.csv: filename, stop, yield
                    a.png,stop                             a.jpg, 1, 0
        images/a.png                   train/a.jpg

    Columns with pixels (width, height, xmin, ymin, xmax, ymax), a split or a track are read, too.
    """
    found = Found([])
    for table in tree.named(".csv", ".tsv"):
        if not _names_photos(tree, table):
            continue
        head = dict(zip(tree.columns(table), tree.head(table), strict=True))
        split = split_in(table) or split_of(PurePosixPath(table).stem)
        for row in tree.rows(table):
            name = _first(row, FILE)
            file = tree.find(name, table)
            if file is None:
                found.problems.append((name, f"listed in {table}, line {row.line}, but not there"))
                continue
            label = _first(row, LABEL) or _one_hot(row, head)
            if not label:
                found.problems.append((file, f"has no class, or several, in {table}"))
                continue
            given = split_of(_first(row, SPLIT)) or split
            region = _region(tree, file, row) if set(BOX) <= set(head) else None
            found.signs.append(Sign(file, label, given, _first(row, TRACK), region))
    return found if found.signs else None


def fiftyone(tree: Tree) -> Found | None:
    """FiftyOne's classification export: photos in data/, classes in labels.json.

        data/a.png
        labels.json: {"classes": ["stop", "yield"], "labels": {"a": 0}}
    """
    found = Found([])
    for file in tree.named(".json"):
        content = as_json(tree, file)
        if not (isinstance(content, dict) and {"classes", "labels"} <= set(content)):
            continue
        classes, labels = content["classes"], content["labels"]
        for name, label in labels.items() if isinstance(labels, dict) else ():
            photo = tree.find(name, file)
            value = label if isinstance(label, int) else None
            if photo is None:
                found.problems.append((name, f"listed in {file} but not there"))
            elif value is not None and classes and 0 <= value < len(classes):
                found.signs.append(Sign(photo, str(classes[value]), split_in(file)))
            else:
                found.problems.append((photo, f"has no class in {file}"))
    return found if found.signs else None


def metadata_lines(tree: Tree) -> Found | None:
    """Hugging Face's image folders: metadata.jsonl beside the photos.

        train/metadata.jsonl: {"file_name": "a.png", "label": "stop"}
        train/a.png
    """
    found = Found([])
    for table in tree.named(".jsonl"):
        for line, text in enumerate(tree.text(table).splitlines(), 1):
            content = _parse(text, f"{tree.folder / table}, line {line}") if text.strip() else {}
            values = {plain(key): str(value) for key, value in content.items()}
            row = Row(line, values)
            name, label = _first(row, FILE), _first(row, LABEL)
            file = tree.find(name, table) if name else None
            if file and label:
                found.signs.append(Sign(file, label, split_in(table), _first(row, TRACK)))
            elif content:
                found.problems.append((name, f"{table}, line {line}: no photo or no class"))
    return found if found.signs else None


def as_json(tree: Tree, file: str) -> object:
    """The content of a JSON file; `DatasetError` if it is none."""
    return _parse(tree.text(file), str(tree.folder / file))


def pixel_region(tree: Tree, file: str, box: tuple[float, ...], size: tuple[int, int]) -> Region:
    """A box left, top, right, bottom in pixels as shares of a photo; (0, 0): its size is unknown.

    What leaves the photo is cut off; ValueError if nothing is left.
    """
    width, height = size if all(size) else _size(tree, file)
    left, top, right, bottom = box
    region = (
        max(0.0, left / width),
        max(0.0, top / height),
        min(1.0, right / width),
        min(1.0, bottom / height),
    )
    if not (region[0] < region[2] and region[1] < region[3]):
        raise ValueError(f"{box} of {width} x {height} pixels")
    return region


def _size(tree: Tree, file: str) -> tuple[int, int]:
    height, width = images.decode(tree.read(file)).shape[:2]
    return width, height


def _parse(text: str, place: str):  # type: ignore[no-untyped-def]
    try:
        return json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{place} is no JSON ({error}). Repair or remove it.") from error


def _names_photos(tree: Tree, table: str) -> bool:
    """Whether most of the first rows of a table name a photo that is there."""
    columns = tree.columns(table)
    if not set(FILE) & set(columns) or PurePosixPath(table).stem.lower() == "meta":
        return False
    names = [_first(row, FILE) for row, _ in zip(tree.rows(table), range(CHECKED), strict=False)]
    found = [tree.find(name, table) for name in names]
    return 2 * sum(file is not None for file in found) >= len(names) > 0


def _first(row: Row, names: tuple[str, ...]) -> str:
    return next((row.values[name] for name in names if row.values.get(name)), "")


def _one_hot(row: Row, head: dict[str, str]) -> str:
    known = {*FILE, *LABEL, *SPLIT, *TRACK}
    marked = [head[name] for name, value in row.values.items() if name not in known and value == "1"]
    return marked[0] if len(marked) == 1 else ""


def _region(tree: Tree, file: str, row: Row) -> Region:
    try:
        box = tuple(float(row.values[name]) for name in BOX)
        size = (int(float(row.values.get("width") or 0)), int(float(row.values.get("height") or 0)))
        return pixel_region(tree, file, box, size)
    except ValueError as error:
        raise DatasetError(f"{tree.folder / file}: its box cannot be used ({error}).") from error


def listed(tree: Tree, table: str) -> Iterator[str]:
    """The lines of a list, such as classes.txt, without empty ones."""
    return filter(None, map(str.strip, tree.text(table).splitlines()))
