"""Where photos come from: files, folders, zip archives and standard input."""

import functools
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from signs.data import images
from signs.data.archives import Archive
from signs.errors import UserError

# A chunk is answered at once; it ends at so many photos or bytes, whichever comes first.
CHUNK_PHOTOS = 64
CHUNK_BYTES = 32 * 2**20


class PhotoError(Exception):
    """A photo cannot be had; the text says why."""


@dataclass(frozen=True)
class Source:
    """A photo that is yet to be read.

    Attributes:
        name: what the answer calls it.
        size: bytes that it is said to have.
        read: gives its bytes.
    """

    name: str
    size: int
    read: Callable[[], bytes]


def at(path: str) -> Iterator[Source]:
    """The photos at a path; those of a folder in natural order.

    Raises:
        UserError: there are none.
    """
    place = Path(path)
    if path == "-":
        yield Source("-", 0, _read_input)
    elif place.is_dir():
        shown = (file for file in place.rglob("*") if file.is_file() and _shows(file))
        found = sorted(shown, key=lambda file: natural(str(file)))
        if not found:
            raise UserError(f"{path} holds neither photos ({suffixes()}) nor zip archives.")
        for file in found:
            yield from _archived(file) if _is_archive(file) else [_file(file)]
    elif not place.exists():
        raise UserError(f"{path} does not exist.")
    else:
        yield from _archived(place) if _is_archive(place) else [_file(place)]


def _shows(file: Path) -> bool:
    return is_photo(file.name) or (_is_archive(file) and file.name[0] != ".")


def is_photo(name: str) -> bool:
    """Whether a file of this name is taken for a photo."""
    # Hidden files, such as a Mac puts beside each photo of an archive, are none.
    hidden = name.rpartition("/")[2].startswith(".")
    return not hidden and name.lower().endswith(tuple(images.SUFFIXES))


def _is_archive(file: Path) -> bool:
    return file.suffix.lower() == ".zip"


def suffixes() -> str:
    """Those of photos, for sentences."""
    return ", ".join(sorted(suffix[1:] for suffix in images.SUFFIXES))


def natural(name: str) -> list[str | int]:
    """Sort key: 2.png comes before 10.png."""
    # Text and numbers take turns, so that like is compared with like.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _file(path: Path) -> Source:
    size = path.stat().st_size
    return Source(str(path), min(size, images.MAX_BYTES), lambda: limited(size, path.read_bytes))


def _archived(path: Path) -> Iterator[Source]:
    try:
        archive = Archive(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a zip archive: {error}") from error
    sizes = archive.sizes()
    members = list(filter(is_photo, sizes))
    if not members:
        raise UserError(f"{path} holds no photos ({suffixes()}).")
    for member in members:
        size = sizes[member]
        read = functools.partial(limited, size, functools.partial(archive.read, member))
        yield Source(f"{path}/{member}", min(size, images.MAX_BYTES), read)


def limited(size: int, read: Callable[[], bytes]) -> bytes:
    """Read a photo of `size` bytes.

    Raises:
        PhotoError: it is too large, and is not read.
    """
    if size > images.MAX_BYTES:
        raise PhotoError(f"more than {images.MAX_BYTES // 2**20} MB")
    return read()


def _read_input() -> bytes:
    content = sys.stdin.buffer.read(images.MAX_BYTES + 1)
    return limited(len(content), lambda: content)


def chunks(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """What is answered at once: so many photos or bytes, whichever comes first."""
    chunk: list[Source] = []
    size = 0
    for source in sources:
        if chunk and (len(chunk) == CHUNK_PHOTOS or size + source.size > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(source)
        size += source.size
    if chunk:
        yield chunk


def read_all(chunk: list[Source]) -> tuple[list[bytes], dict[int, str]]:
    """The bytes of n photos (none where they cannot be had), and place → why they cannot."""
    photos: list[bytes] = []
    errors: dict[int, str] = {}
    for place, source in enumerate(chunk):
        content = b""
        try:
            content = source.read()
        except (PhotoError, zipfile.BadZipFile) as error:
            errors[place] = str(error)
        except OSError as error:
            errors[place] = error.strerror or str(error)
        photos.append(content)
    return photos, errors
