"""Raw data sets, whatever their layout, as one table.

`read` looks at the files of a folder below data/ (those in zip archives, too), finds the layout
that fits and lets it list the signs. `LAYOUTS` has all of them, each with a picture of its files.

Class names come from a table of names in the folder (labels.csv), else from the layout, else from
signs/data/labels/<set>.csv, else from the folder names.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path

import pandas as pd

from signs.data.images import REGION, Region
from signs.data.layouts import boxes, folders, gtsrb, tables
from signs.data.layouts.found import TEST, TRAIN, VALIDATION, Found, Problem, Sign
from signs.data.layouts.names import LABELS, names_of, read_labels
from signs.data.layouts.tree import DatasetError, Reader, Tree
from signs.paths import DATA

__all__ = [
    "LABELS",
    "LAYOUTS",
    "Dataset",
    "DatasetError",
    "Problem",
    "Reader",
    "identify",
    "read",
    "read_labels",
    "regions",
]

# Sets that are known under their name must be whole. Copies of GTSRB with 26,640 training
# images (class 0: 150) are in circulation; accuracies on them compare with nothing.
EXPECTED_FILES = {"signs": {"training": 4_170}, "gtsrb": {"training": 39_209, "test": 12_630}}
SPLITS = (TRAIN, VALIDATION, TEST)
COLUMNS = ["file", "class_id", "track", "fixed_split", *REGION]

Layout = Callable[[Tree], Found | None]  # None: the tree has another layout
# A layout of an earlier line goes before those of later lines. Two of one line contradict.
LAYOUTS: list[dict[str, Layout]] = [
    {"GTSRB's tables": gtsrb.official, "Kaggle's copy of GTSRB": gtsrb.kaggle},
    {
        "tables of photos": tables.photo_tables,
        "FiftyOne's labels": tables.fiftyone,
        "metadata.jsonl": tables.metadata_lines,
        "boxes in YOLO's form": boxes.yolo,
        "boxes in COCO's form": boxes.coco,
        "boxes in Pascal VOC's form": boxes.pascal_voc,
        "boxes in CVAT's form": boxes.cvat,
        "boxes in Label Studio's form": boxes.label_studio,
        "boxes in LabelMe's form": boxes.label_me,
        "boxes in Create ML's form": boxes.create_ml,
        "boxes in KITTI's form": boxes.kitti,
    },
    {"split folders": folders.split_folders},
    {"class folders": folders.class_folders},
]


@dataclass
class Dataset:
    """A raw data set.

    `table` has one row a sign: file (path below the folder; archives count as folders),
    class_id, track (photos of one physical sign; "" if unknown), fixed_split ("train",
    "validation" or "test" if the set says so, else ""), left/top/right/bottom (the sign's region
    in shares of width and height; NaN if the whole image is the sign).
    """

    folder: Path
    table: pd.DataFrame
    names: dict[int, str]  # of the class ids
    problems: list[Problem] = field(default_factory=list)  # all that was left out of the table
    notes: list[Problem] = field(default_factory=list)  # left out, too, but nobody misses it
    layout: str = ""  # what was understood
    litter: int = 0  # files of systems and tools, which nobody put there

    def summary(self) -> str:
        """What was understood, in a sentence or two."""
        table, photos = self.table, self.table["file"].nunique()
        counts = table["fixed_split"].value_counts()
        given = ", ".join(f"{counts[part]:,} for {part}" for part in SPLITS if part in counts)
        tracks = table["track"][table["track"] != ""].nunique()
        facts = {
            f"{len(table):,} signs on {photos:,} photos": len(table) > photos,
            f"{photos:,} photos": len(table) == photos,
            f"{len(self.names)} classes": True,
            f"a given split ({given})": bool(given),
            f"{tracks:,} tracks": bool(tracks),
            "regions of the signs": table["left"].notna().any(),
        }
        left = {
            f"{self.litter:,} files that nobody needs": self.litter > 0,
            f"{len(self.notes):,} that problems.csv names": bool(self.notes),
        }
        told = [", ".join(text for text, holds in all_.items() if holds) for all_ in (facts, left)]
        return f"{self.folder.name}: {self.layout}; {told[0]}." + f" Left out: {told[1]}." * bool(told[1])


def read(name: str, data: Path = DATA) -> Dataset:
    """The signs of the data set `name`; decodes none of its photos.

    A set that is missing, empty, incomplete or damaged, or unusable labels: `DatasetError`.
    """
    folder = data / name
    if not folder.is_dir():
        raise DatasetError(
            f"The data set {name!r} is not there: {folder} is missing. {_how_to_get(name)}"
        )
    dataset = identify(folder)
    _check_count(name, dataset.table)
    return dataset


def identify(folder: Path) -> Dataset:
    """The signs in a folder, in whatever layout; errors as those of `read`."""
    tree = Tree(folder)
    layout, found = _find(tree)
    if not found.signs:
        raise DatasetError(f"{folder} holds no images. {_expected(tree)}")
    rows, names = _numbered(tree, found)
    names = names_of(tree, names, found.names, layout)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Dataset(folder, table, names, found.problems, found.notes, layout, tree.litter)


def regions(table: pd.DataFrame) -> list[Region | None]:
    """The sign's region on each photo; None where it is the whole image."""
    return [
        None if isnan(left) else (left, top, right, bottom)
        for left, top, right, bottom in table[REGION].to_numpy(dtype=float).tolist()
    ]


def _find(tree: Tree) -> tuple[str, Found]:
    for line in LAYOUTS:
        fitting = {name: found for name, layout in line.items() if (found := layout(tree))}
        if len(fitting) > 1:
            raise DatasetError(
                f"{tree.folder} can be read in {len(fitting)} ways: {', '.join(fitting)}. "
                f"Remove the files of all but one.\nFound:\n{tree.outline()}"
            )
        if fitting:
            return next(iter(fitting.items()))
    raise DatasetError(f"{tree.folder} holds no images. {_expected(tree)}")


def _expected(tree: Tree) -> str:
    names = ", ".join(name for line in LAYOUTS for name in line)
    return (
        f"Expected class sub-folders with images, or one of these: {names} (docs/data.md). "
        f"{_how_to_get(tree.folder.name)}\nFound:\n{tree.outline()}"
    )


def _numbered(tree: Tree, found: Found) -> tuple[list[tuple[object, ...]], dict[int, str]]:
    """One row a sign, by class, and the label of each class id."""
    by_label: dict[str, list[Sign]] = {}
    for sign in found.signs:
        by_label.setdefault(sign.label, []).append(sign)
    named = sorted(label for label in by_label if not label.isdecimal())
    if named and len(named) < len(by_label):
        raise DatasetError(
            f"{tree.folder} mixes numbered classes with named ones ({', '.join(named[:5])}); "
            "use numbers for all classes or names for all."
        )
    # 10 comes after 9, not after 1: text order would give the classes wrong names.
    order = named or sorted(by_label, key=int)
    ids = list(range(len(named))) or [int(label) for label in order]
    repeated = sorted({str(i) for i in ids if ids.count(i) > 1})
    if repeated:
        raise DatasetError(f"{tree.folder} has several folders for class {', '.join(repeated)}.")
    rows = [
        (sign.file, class_id, sign.track, sign.split, *(sign.region or [nan] * 4))
        for class_id, label in zip(ids, order, strict=True)
        for sign in by_label[label]
    ]
    return rows, dict(zip(ids, order, strict=True))


def _how_to_get(name: str) -> str:
    if name in ("synthetic", "ood", "auxiliary_outliers"):
        return "`dvc repro synthesize` makes it."
    return {
        "signs": "`make data` fetches it, or `dvc pull data.dvc` from your team's remote.",
        "gtsrb": "docs/data.md says which official archives belong there, or `dvc pull gtsrb.dvc`.",
    }.get(name, f"Put one sub-folder for each class into data/{name}.")


def _check_count(name: str, table: pd.DataFrame) -> None:
    tested = int((table["fixed_split"] == TEST).sum())
    counts = {"training": len(table) - tested, "test": tested}
    for part, expected in EXPECTED_FILES.get(name, {}).items():
        found = counts[part]
        if found != expected and (found or part == "training"):
            raise DatasetError(
                f"data/{name} holds {found:,} {part} images, the full set has {expected:,}: "
                f"this is another or an incomplete copy. {_how_to_get(name)} "
                "To use it all the same, give the folder another name."
            )
