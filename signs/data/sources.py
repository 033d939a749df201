"""Where photos come from: files, folders, zip archives and standard input."""

import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from signs.data import images
from signs.data.archives import Archive
from signs.errors import UserError

# Limits of a chunk: photos that are read and predicted together.
CHUNK_PHOTOS = 64
CHUNK_BYTES = 32 * 2**20


class PhotoError(Exception):
    """A photo cannot be read; the text says why."""


@dataclass(frozen=True)
class Source:
    """A photo that is not read yet."""

    name: str  # in the results
    size: int  # in bytes, as its file or archive declares it
    read: Callable[[], bytes]


def at(path: str) -> Iterator[Source]:
    """The photos at a path; those of a folder in natural order; `UserError` if there are none."""
    root = Path(path)
    if path == "-":
        yield Source("-", 0, _read_input)
        return
    if not root.exists():
        raise UserError(f"{path} does not exist.")
    files = [root]
    if root.is_dir():
        used = (*images.SUFFIXES, ".zip")
        candidates = (file for file in root.rglob("*") if is_photo(file.name, used))
        files = sorted(filter(Path.is_file, candidates), key=lambda file: natural(str(file)))
        if not files:
            raise UserError(f"{path} holds neither photos ({suffixes()}) nor zip archives.")
    for file in files:
        if file.suffix.lower() == ".zip":
            yield from _archived(file)
        else:
            yield limited_source(str(file), file.stat().st_size, file.read_bytes)


def is_photo(name: str, used: Iterable[str] = images.SUFFIXES) -> bool:
    """Whether a file of this name counts as a photo: one with a suffix that is used."""
    # Hidden files do not: macOS adds one for each photo of an archive.
    hidden = name.rpartition("/")[2].startswith(".")
    return not hidden and name.lower().endswith(tuple(used))


def suffixes() -> str:
    """The suffixes of photos, for messages."""
    return ", ".join(sorted(suffix[1:] for suffix in images.SUFFIXES))


def natural(name: str) -> list[str | int]:
    """Sort key: 2.png comes before 10.png."""
    # Text and numbers alternate, so that values of one type are compared.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _archived(path: Path) -> Iterator[Source]:
    try:
        archive = Archive(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a zip archive: {error}") from error
    photos = [(member, size) for member, size in archive.sizes().items() if is_photo(member)]
    if not photos:
        raise UserError(f"{path} holds no photos ({suffixes()}).")
    for member, size in photos:
        yield limited_source(f"{path}/{member}", size, partial(archive.read, member))


def limited_source(name: str, size: int, read: Callable[[], bytes]) -> Source:
    """A photo of `size` bytes that is not read if it is too large."""
    return Source(name, min(size, images.MAX_BYTES), partial(limited, size, read))


def limited(size: int, read: Callable[[], bytes]) -> bytes:
    """Read a photo of `size` bytes; `PhotoError` instead if it is too large."""
    if size > images.MAX_BYTES:
        raise PhotoError(f"more than {images.MAX_BYTES // 2**20} MB")
    return read()


def _read_input() -> bytes:
    content = sys.stdin.buffer.read(images.MAX_BYTES + 1)
    return limited(len(content), lambda: content)


def chunks(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Cut photos into chunks of at most CHUNK_PHOTOS photos and, if possible, CHUNK_BYTES bytes."""
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
    """The bytes of n photos (empty for those that cannot be read), and index → error."""
    photos: list[bytes] = []
    errors: dict[int, str] = {}
    for index, source in enumerate(chunk):
        content = b""
        try:
            content = source.read()
        except (PhotoError, zipfile.BadZipFile) as error:
            errors[index] = str(error)
        except OSError as error:
            errors[index] = error.strerror or str(error)
        photos.append(content)
    return photos, errors
