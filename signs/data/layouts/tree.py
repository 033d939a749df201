"""The files of a data set, in folders and zip archives, and what its tables say."""

import csv
import io
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from signs.data.archives import Archive
from signs.data.images import SUFFIXES
from signs.errors import UserError

IN_ARCHIVE = re.compile(r"(.+?\.zip)/(.+)", re.IGNORECASE | re.DOTALL)
# What systems and tools leave behind, beside all that begins with a dot.
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
LITTER |= {"$recycle.bin", "system volume information", "lost+found", "__pycache__"}


class DatasetError(UserError):
    """A data set is missing, damaged or contradicts itself."""


class Reader:
    """Reads files of a data set by their path below its folder; keeps its archives open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archive = cache(lambda name: Archive(folder / name))

    def read(self, file: str) -> bytes:
        """The file's bytes; OSError or zipfile.BadZipFile if it cannot be read."""
        if in_archive := IN_ARCHIVE.fullmatch(file):
            return self._archive(in_archive[1]).read(in_archive[2])
        return (self._folder / file).read_bytes()


class Row(NamedTuple):
    """A row of a table: its values by the names of its columns, in small letters and digits."""

    line: int
    values: dict[str, str]


class Tree:
    """The files below a folder; those in zip archives, too: archives count as folders.

    `files` are paths below the folder, in the order of their names; members of an archive keep
    theirs. `empty` are folders without a file. `litter` counts what was left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._reader = folder, Reader(folder)
        self.files: list[str] = []
        self.empty: list[str] = []
        self.litter = 0
        self._walk("")
        self.photos = [file for file in self.files if is_photo(file)]

    def named(self, *suffixes: str) -> list[str]:
        """The files with one of these suffixes, in small letters."""
        return [file for file in self.files if file.lower().endswith(suffixes)]

    @cached_property
    def named_photos(self) -> dict[str, list[str]]:
        """The photos by their name, with and without its suffix."""
        photos = defaultdict(list)
        for file in self.photos:
            name = file.rpartition("/")[2]
            photos[name].append(file)
            photos[os.path.splitext(name)[0]].append(file)
        return dict(photos)

    def find(self, name: str, table: str) -> str | None:
        """The one photo that a table calls so, next to the table if there are several.

        Tables name photos in many ways: with folders or without, even as URLs.
        """
        path = PurePosixPath(name.replace("\\", "/").partition("?")[0])
        files = self.named_photos.get(path.name, [])
        if len(files) > 1:
            # The longest part of the path that still tells something.
            wanted = [part for part in path.parts if part not in ("/", "..", ".")]
            for start in range(len(wanted)):
                end = "/" + "/".join(wanted[start:])
                if fitting := [file for file in files if f"/{file}".endswith(end)]:
                    files = fitting
                    break
        if len(files) > 1:
            folder = table.rpartition("/")[0]
            files = [file for file in files if file.startswith(f"{folder}/" if folder else "")]
            nearest = min((file.count("/") for file in files), default=0)
            files = [file for file in files if file.count("/") == nearest]
        return files[0] if len(files) == 1 else None

    def text(self, file: str) -> str:
        """The text of a file in UTF-8, or in UTF-16 as Excel saves it."""
        try:
            content = self._reader.read(file)
            return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{self.folder / file} is not in UTF-8 ({error}); save it in UTF-8."
            ) from error
        except (OSError, zipfile.BadZipFile) as error:
            raise DatasetError(
                f"{self.folder / file} cannot be read ({error}). Repair or remove it."
            ) from error

    def read(self, file: str) -> bytes:
        """The bytes of a file, as `Reader` gives them."""
        return self._reader.read(file)

    def head(self, file: str) -> list[str]:
        """The names of a CSV table's columns."""
        first = self.text(file).partition("\n")[0].strip()
        return [name.strip() for name in next(csv.reader([first], delimiter=_delimiter(first)), [])]

    def columns(self, file: str) -> list[str]:
        """The same, as `Row` has them."""
        return [plain(name) for name in self.head(file)]

    def rows(self, file: str) -> Iterator[Row]:
        """The rows of a CSV table, whatever separates its columns."""
        text = self.text(file)
        delimiter = _delimiter(text.partition("\n")[0])
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            names = [plain(name) for name in next(reader, [])]
            for values in reader:
                if any(values):
                    filled = [*(value.strip() for value in values), *[""] * len(names)]
                    yield Row(reader.line_num, dict(zip(names, filled, strict=False)))
        except csv.Error as error:
            raise DatasetError(
                f"{self.folder / file} cannot be read ({error}). Repair or remove it."
            ) from error

    def outline(self, most: int = 12) -> str:
        """The upper part of the tree as text, for messages."""
        counts: dict[str, int] = {}
        for file in self.files:
            place = "/".join(file.split("/")[:-1][:3])
            kind = PurePosixPath(file).suffix.lower() or "no suffix"
            counts[f"{place}/*{kind}".lstrip("/")] = counts.get(f"{place}/*{kind}".lstrip("/"), 0) + 1
        lines = [f"  {place}  ({count:,})" for place, count in list(counts.items())[:most]]
        return "\n".join([*lines, *["  ..."] * (len(counts) > most)]) or "  (nothing)"

    def _walk(self, below: str) -> None:
        entries = sorted(os.scandir(self.folder / below), key=lambda entry: entry.name)
        wanted = [entry for entry in entries if not is_litter(entry.name)]
        self.litter += len(entries) - len(wanted)
        before = len(self.files)
        for entry in wanted:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                self._walk(path)
            elif entry.name.lower().endswith(".zip"):
                self._list(path)
            else:
                self.files.append(path)
        if below and len(self.files) == before:
            self.empty.append(below)

    def _list(self, archive: str) -> None:
        for member in members(self.folder / archive):
            if any(map(is_litter, member.split("/"))):
                self.litter += 1
            else:
                self.files.append(f"{archive}/{member}")


def members(path: Path) -> list[str]:
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


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is nothing that somebody put there."""
    return name.startswith((".", "~$")) or name.lower() in LITTER


def is_photo(file: str) -> bool:
    """Whether a file counts as a photo, by its suffix."""
    return os.path.splitext(file)[1].lower() in SUFFIXES


def plain(name: str) -> str:
    """A name in small letters and digits alone: Class_ID, classId and CLASS ID are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _delimiter(line: str) -> str:
    return max(",;\t|", key=line.count)
