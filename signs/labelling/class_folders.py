"""The data set that labelled photos join: `data/NAME/<class>/photo.png`."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from signs import files
from signs.data import layouts
from signs.data.layouts.names import table_of_names
from signs.data.layouts.tree import IN_ARCHIVE, Tree
from signs.data.sources import natural
from signs.errors import UserError

LABELS = "labels.csv"
HEAD = "classid,name"
LONGEST = 100  # characters of a class's name


class ClassFolders:
    """The class folders of a data set: numbered ones with a table of names, or named ones.

    A new set gets numbered folders: names such as "Speed limit (30 km/h)" are no names of folders.
    """

    def __init__(self, folder: Path, ids: Mapping[str, int]) -> None:
        """Find the classes of a set, which may be empty or not there.

        Args:
            folder: of the set.
            ids: the classifier's class ids, by name; a new class takes its id if that is free.

        Raises:
            UserError: the folder has photos in another layout than class folders.
        """
        self.folder, self._base, self._preferred = folder, folder, ids
        self._table = folder / LABELS
        self._numbered = True
        self._names: dict[int, str] = {}  # of numbered folders
        self._folders: dict[str, Path] = {}  # by the key of the class's name
        if folder.exists():
            self._read()

    @property
    def names(self) -> list[str]:
        """The names of the classes of the set and of the classifier."""
        by_key = {_key(name): name for name in self._preferred}
        by_key |= {_key(name): name for name in self._names.values()}
        named = {key: folder.name for key, folder in self._folders.items()}
        return sorted((named | by_key).values(), key=lambda name: natural(name.casefold()))

    def folder_of(self, name: str) -> Path:
        """The folder of a class; a new class is made, and noted in the table of names.

        Raises:
            UserError: no class can have this name; the table of names has other columns.
        """
        if not 0 < len(name) <= LONGEST or not name.isprintable() or not _key(name):
            raise UserError(f"{name[:LONGEST]!r} is no name: give 1 to {LONGEST} characters.")
        if name.isdecimal() and not self._numbered:
            raise UserError(
                f"{name} is a number, but the class folders in {self.folder} have names."
            )
        if _key(name) not in self._folders:
            called = str(self._add(name)) if self._numbered else _plain(name)
            self._folders[_key(name)] = self._base / called
        folder = self._folders[_key(name)]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _read(self) -> None:
        if self.folder.name in layouts.EXPECTED_FILES:
            raise UserError(
                f"{self.folder} must stay complete, or `preprocess` refuses it: name another "
                "folder with --to."
            )
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is no folder: name one with --to.")
        tree = Tree(self.folder)
        if tree.photos:
            found = layouts.identify(self.folder)
            if found.layout != "class folders":
                raise UserError(
                    f"{self.folder} has another layout ({found.layout}): photos are put into class "
                    "folders alone. Name another folder with --to."
                )
            places = self._places(found)
            self._numbered = all(place.name.isdecimal() for place in places.values())
            self._names = found.names if self._numbered else {}
            self._folders = {_key(found.names[i]): place for i, place in places.items()}
        table = table_of_names(tree)
        if table and self._numbered:
            self._table = self.folder / table
            self._names = layouts.read_labels(self._table)
            for class_id, name in self._names.items():
                self._folders.setdefault(_key(name), self._base / str(class_id))

    def _places(self, found: layouts.Dataset) -> dict[int, Path]:
        """The folder of each class id; that of a class in an archive is still to be made."""
        places: dict[int, Path] = {}
        plain = [file for file in found.table["file"] if not IN_ARCHIVE.fullmatch(file)]
        if plain:
            self._base = (self.folder / plain[0]).parent.parent
        for file, class_id in zip(found.table["file"], found.table["class_id"], strict=True):
            places.setdefault(int(class_id), self._base / PurePosixPath(file).parent.name)
        return places

    def _add(self, name: str) -> int:
        """Give a class a number, and write it into the table."""
        wanted = {_key(other): class_id for other, class_id in self._preferred.items()}
        class_id = wanted.get(_key(name), -1)
        if class_id < 0 or class_id in self._names:
            class_id = max([-1, *self._names, *wanted.values()]) + 1
        names = self._names | {class_id: name}
        if self._table.exists():
            text = self._table.read_text(encoding="utf-8-sig").rstrip("\n")
            head = text.partition("\n")[0].strip().lower()
            if not f"{head},".startswith(f"{HEAD},"):
                raise UserError(
                    f"{self._table} must begin with the columns ClassId,Name for a new class to be "
                    f"added; it has {head}."
                )
            more = head.count(",") - HEAD.count(",")
            text += "\n" + _row(class_id, name, *[""] * more)
        else:
            text = "ClassId,Name\n" + "".join(_row(*item) for item in sorted(names.items()))
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(self._table, text)
        self._names = names
        return class_id


def _row(*values: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _plain(name: str) -> str:
    """The name of a class as that of its folder, which cannot lead to another place."""
    return name.strip().replace("/", "-").replace("\\", "-").lstrip(".-")


def _key(name: str) -> str:
    """Equal for what is one class, as a name and as a folder; empty for what names nothing."""
    return _plain(name).casefold()
