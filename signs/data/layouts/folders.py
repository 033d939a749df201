"""Layouts whose folders say what their photos show."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from signs.data.layouts.found import Found, Sign, split_of
from signs.data.layouts.names import table_of_names
from signs.data.layouts.tree import IN_ARCHIVE, DatasetError, Tree, is_photo

# Files beside the class folders that may be meant to be read.
LOOSE_DATA = {".csv", ".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}


class _Place(NamedTuple):
    """What the folders of a photo say."""

    file: str
    split: str  # "" if no folder is called like one
    folders: list[str]  # without archives and the split's; the last one is the class


def split_folders(tree: Tree) -> Found | None:
    """Class folders in split folders, or the other way round; archives count as folders.

        train/stop/1.png      all.zip/set/train/stop/1.png      stop/train/1.png
        valid/stop/2.png      all.zip/set/test/stop/2.png       stop/test/2.png
        test/stop/3.png
    """
    places = [_place(file, split=True) for file in tree.photos if "/" in file]
    if len({place.split for place in places}) < 2:
        return None
    if not any(place.folders for place in places if place.split):
        return None
    return _read(tree, places)


def class_folders(tree: Tree) -> Found | None:
    """One folder for each class, numbered or named; zip archives of such folders add to it.

        stop/1.png      00014/1.ppm      0/1.png
        yield/2.png     00013/2.ppm      more.zip/photos/0/2.png
    """
    places = [_place(file, split=False) for file in tree.photos if "/" in file]
    classes = {place.folders[-1] for place in places if place.folders}
    if not classes:
        return None
    if len(classes) > 1 and all(map(split_of, classes)):
        raise DatasetError(
            f"{tree.folder} has photos in {' and '.join(sorted(classes))}, but no class folders "
            f"in these. Expected {tree.folder.name}/<split>/<class>/<image>."
        )
    return _read(tree, places)


def _place(file: str, split: bool) -> _Place:
    folders = file.split("/")[:-1]
    number = next((i for i, name in enumerate(folders) if split and split_of(name)), None)
    rest = [name for i, name in enumerate(folders) if i != number]
    rest = [name for name in rest if not name.lower().endswith(".zip")]
    return _Place(file, "" if number is None else split_of(folders[number]), rest)


def _read(tree: Tree, places: Iterable[_Place]) -> Found:
    found = Found([])
    used = [place for place in places if place.folders]
    _refuse_other_depths(tree, used)
    for place in used:
        found.signs.append(Sign(place.file, place.folders[-1], place.split))
    signs, names = {sign.file for sign in found.signs}, table_of_names(tree)
    for file in tree.files:
        kind = PurePosixPath(file).suffix.lower()
        if is_photo(file) and file not in signs:
            found.problems.append((file, "is in no class folder"))
        elif kind in LOOSE_DATA and file != names:
            found.problems.append((file, "is not read: no photo, zip archive or table of names"))
    found.notes += [(folder, "the folder is empty") for folder in tree.empty]
    return found


def _refuse_other_depths(tree: Tree, places: list[_Place]) -> None:
    """`DatasetError` if folders lie in class folders: nobody can say which ones are the classes."""
    plain = [place for place in places if not IN_ARCHIVE.fullmatch(place.file)]
    usual = min((len(place.folders) for place in plain), default=0)
    for place in plain:
        if len(place.folders) > usual:
            raise DatasetError(
                f"{tree.folder / place.file} is too deep: images belong directly into their "
                f"class folder, as in {tree.folder.name}/<class>/<image>."
            )
