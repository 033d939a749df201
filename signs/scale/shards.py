"""Finds the photos of a bulk job, cuts them into shards, and reads the photos of a shard."""

import itertools
import shutil
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from signs.data import sources
from signs.data.archives import Archive
from signs.data.sources import PhotoError, Source, limited_source
from signs.errors import UserError

READERS = 64  # photos that a worker requests from a store at the same time
UNREADABLE = (OSError, zipfile.BadZipFile, pa.ArrowException)


@dataclass(frozen=True)
class Shard:
    """Part of an archive, part of a Parquet file, or some single files.

    Attributes:
        photos: how many.
        path: of the archive or Parquet file; "" for single files.
        start: the first of the archive's photos, or of the Parquet file's row groups.
        stop: the first that is not in the shard.
        first: number of the first photo in the archive or Parquet file.
        names: of single files.
        sizes: of single files, in bytes.
        number: of the shard in its job.
    """

    photos: int
    path: str = ""
    start: int = 0
    stop: int = 0
    first: int = 0
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    number: int = 0


def find(places: list[str], column: str, size: int) -> list[Shard]:
    """The photos at some places in natural order, cut into shards.

    Args:
        places: files, folders, zip archives and Parquet files, or addresses of them.
        column: of Parquet files, the one with the photos.
        size: photos of a shard.

    Raises:
        UserError: there are none, or an archive or a Parquet file cannot be used.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return [
            replace(shard, number=number)
            for number, shard in enumerate(
                shard for place in places for shard in _cut(place, column, size, pool)
            )
        ]


def _cut(place: str, column: str, size: int, pool: ThreadPoolExecutor) -> Iterator[Shard]:
    print(f"Looking for photos in {place} ...", flush=True)
    for kind, group in itertools.groupby(_files(place), lambda file: _kind(file[0])):
        files = list(group)
        if kind == "photo":
            for start in range(0, len(files), size):
                names, sizes = zip(*files[start : start + size], strict=True)
                yield Shard(len(names), names=list(names), sizes=list(sizes))
            continue
        cut = partial(_CUTS[kind], column, size)
        for shards in pool.map(cut, [name for name, _ in files]):
            yield from shards


def _files(place: str) -> list[tuple[str, int]]:
    """Names and sizes of the photos, archives and Parquet files there, in natural order."""
    try:
        store, path = locate(place)
        found = store.get_file_info(path)
        if found.type == fs.FileType.NotFound:
            raise UserError(f"{place} does not exist.")
        if found.is_file:
            return [(place, found.size)]
        entries = store.get_file_info(fs.FileSelector(path, recursive=True))
    except UNREADABLE as error:
        raise UserError(f"{place} cannot be listed: {error}.") from error
    scheme = place.partition("://")[0] + "://" if "://" in place else ""
    files = [
        (scheme + entry.path if scheme else str(Path(entry.path)), entry.size)
        for entry in entries
        if entry.is_file and (sources.is_photo(entry.path) or _kind(entry.path) != "photo")
    ]
    if not files:
        raise UserError(
            f"{place} holds no photos ({sources.suffixes()}), zip archives or Parquet files."
        )
    return sorted(files, key=lambda file: sources.natural(file[0]))


def _kind(path: str) -> str:
    hidden = path.rpartition("/")[2].startswith(".")
    suffix = path.lower().rpartition(".")[2]
    return suffix if suffix in _CUTS and not hidden else "photo"


def _cut_archive(column: str, size: int, path: str) -> list[Shard]:
    try:
        store, inner = locate(path)
        with store.open_input_file(inner) as file, zipfile.ZipFile(file) as archive:
            photos = sum(sources.is_photo(info.filename) for info in archive.infolist())
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a zip archive: {error}") from error
    if not photos:
        raise UserError(f"{path} holds no photos ({sources.suffixes()}).")
    step = photos if "://" in path else size  # one worker gets the whole archive from a store
    return [
        Shard(min(step, photos - start), path, start, start + step, start)
        for start in range(0, photos, step)
    ]


def _cut_parquet(column: str, size: int, path: str) -> list[Shard]:
    try:
        store, inner = locate(path)
        with store.open_input_file(inner) as opened:
            file = pq.ParquetFile(opened)
            schema, groups = file.schema_arrow, file.metadata
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a Parquet file: {error}") from error
    kind = schema.field(column).type if column in schema.names else pa.null()
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f"{path} has no column {column!r} with the bytes of photos; it has "
            f"{', '.join(schema.names)}. Name the right one: --column NAME."
        )
    shards: list[Shard] = []
    start = first = rows = 0
    for group in range(groups.num_row_groups):
        rows += groups.row_group(group).num_rows
        if rows >= size or (rows and group + 1 == groups.num_row_groups):
            shards.append(Shard(rows, path, start, group + 1, first))
            start, first, rows = group + 1, first + rows, 0
    return shards


_CUTS = {"zip": _cut_archive, "parquet": _cut_parquet}


def chunks(shard: Shard, folder: str, column: str) -> Iterator[list[Source]]:
    """The photos of a shard in chunks; those in a store are requested ahead of time.

    Args:
        shard: as `find` made it.
        folder: where relative paths begin.
        column: of Parquet files, the one with the photos.
    """
    cut = sources.chunks(_sources(shard, folder, column))
    if shard.path or "://" not in shard.names[0]:
        yield from cut
        return
    ahead: deque[list[Source]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for chunk in cut:
            ahead.append([replace(s, read=pool.submit(s.read).result) for s in chunk])
            if len(ahead) > 2:
                yield ahead.popleft()
        yield from ahead


def _sources(shard: Shard, folder: str, column: str) -> Iterator[Source]:
    if not shard.path:
        for name, size in zip(shard.names, shard.sizes, strict=True):
            yield limited_source(name, size, partial(read, name, folder))
        return
    parquet = _kind(shard.path) == "parquet"
    photos = _read_parquet(shard, folder, column) if parquet else _read_archive(shard, folder)
    done = 0
    try:
        for source in photos:
            yield source
            done += 1
    except UNREADABLE as error:
        # It was readable when the job began.
        problem = PhotoError(f"{shard.path} cannot be read: {error}")
        for row in range(shard.first + done, shard.first + shard.photos):
            yield limited_source(f"{shard.path}/{row}", 0, partial(_fail, problem))


def _read_parquet(shard: Shard, folder: str, column: str) -> Iterator[Source]:
    store, path = locate(shard.path, folder)
    row = shard.first
    with store.open_input_file(path) as opened, pq.ParquetFile(opened) as file:
        for group in range(shard.start, shard.stop):
            cells = file.read_row_group(group, columns=[column])[column].combine_chunks()
            for cell in cells.field("bytes") if pa.types.is_struct(cells.type) else cells:
                content = cell.as_py() or b""
                yield limited_source(f"{shard.path}/{row}", len(content), partial(bytes, content))
                row += 1


def _read_archive(shard: Shard, folder: str) -> Iterator[Source]:
    archive, photos = _archive(shard.path, folder)
    for member, size in photos[shard.start : shard.stop]:
        yield limited_source(f"{shard.path}/{member}", size, partial(archive.read, member))


@lru_cache(1)
def _archive(address: str, folder: str) -> tuple[Archive, list[tuple[str, int]]]:
    """An archive, and the names and sizes of its photos."""
    store, path = locate(address, folder)
    if isinstance(store, fs.LocalFileSystem):
        archive = Archive(Path(path))
    else:
        with tempfile.NamedTemporaryFile() as copy:  # stays readable after its name is gone
            with store.open_input_stream(path) as stream:
                shutil.copyfileobj(stream, copy, 2**22)
            copy.flush()
            archive = Archive(Path(copy.name))
    return archive, [item for item in archive.sizes().items() if sources.is_photo(item[0])]


def _fail(problem: PhotoError) -> bytes:
    raise problem


def read(name: str, folder: str) -> bytes:
    """The content of a file, whose path may begin in a folder, or of an object in a store."""
    store, path = locate(name, folder)
    with store.open_input_file(path) as file:
        content: bytes = file.read()
    return content


def locate(address: str, folder: str = "") -> tuple[fs.FileSystem, str]:
    """The file system of a path, which may begin in a folder, or of an address; the path there."""
    scheme, found, rest = address.partition("://")
    if not found:
        return fs.LocalFileSystem(), str(Path(folder, address))
    return connect(scheme, rest.partition("/")[0]), rest.rstrip("/")


@lru_cache
def connect(scheme: str, bucket: str) -> fs.FileSystem:
    """The store of a bucket, connected to once in each process."""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
