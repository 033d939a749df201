"""Bulk work as a Ray Data job: millions of photos to answers, or to prepared tensors, in Parquet.

A job is cut into shards. A shard is one task of Ray and one output file, which bears the shard's
number and appears when it is whole. So what a killed worker had begun is done again, no photo
comes twice, and the command that was stopped goes on when it is given again. Workers read the
photos where they lie: only names and counts travel through Ray.

Ray and PyArrow are there after `make setup-ray`; no other module imports them.
"""

import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pyarrow import fs

from signs import params
from signs.data import images, sources
from signs.data.archives import Archive
from signs.data.sources import PhotoError, Source
from signs.errors import UserError
from signs.inference import classifier
from signs.inference.predictions import predict_photos
from signs.parallel import cores
from signs.progress import bar

SHARD = 2048  # photos; some seconds of work are lost with a worker, and a file is of some use
READERS = 64  # photos under way at a time to a worker from a store that answers late
OBJECT_STORE = 2**28  # bytes; it holds no photos
METADATA = "_job.json"  # readers of Parquet folders pass over names that begin so
UNREADABLE = (OSError, zipfile.BadZipFile, pa.ArrowException)

Shard = dict[str, Any]


class Work(Protocol):
    """What a job does with photos."""

    schema: pa.Schema

    def describe(self) -> dict[str, Any]:
        """What decides the results besides the photos."""

    def table(self, chunk: list[Source]) -> pa.Table:
        """One row for each photo, with `file` and, where it cannot be used, `error`."""


class Predict:
    """Names the sign on each photo, as `signs predict` does in CSV."""

    schema = pa.schema(
        {
            "file": pa.string(),
            "prediction": pa.int64(),
            "name": pa.string(),
            "confidence": pa.float64(),
            "known": pa.bool_(),
            "model": pa.string(),
            "error": pa.string(),
        }
    )

    def __init__(self, folder: Path) -> None:
        """Take a classifier along, since workers elsewhere have no such folder.

        Raises:
            ClassifierError: missing, truncated or contradicting files.
        """
        self._version = classifier.Classifier(folder, threads=1).metadata.version
        names = (classifier.MODEL, classifier.METADATA)
        self._content = tuple((name, (folder / name).read_bytes()) for name in names)

    def describe(self) -> dict[str, Any]:
        """The classifier's version."""
        return {"work": "predict", "classifier": self._version}

    def table(self, chunk: list[Source]) -> pa.Table:
        """Columns as in the schema."""
        photos, errors = sources.read_all(chunk)
        answers = predict_photos(_classifier(self._content), photos)
        rows = [
            {"file": source.name, **answer, **({"error": errors[i]} if i in errors else {})}
            for i, (source, answer) in enumerate(zip(chunk, answers, strict=True))
        ]
        return pa.Table.from_pylist(rows, self.schema)


@functools.lru_cache(1)
def _classifier(content: tuple[tuple[str, bytes], ...]) -> classifier.Classifier:
    with tempfile.TemporaryDirectory() as folder:
        for name, part in content:
            (Path(folder) / name).write_bytes(part)
        return classifier.Classifier(Path(folder), threads=1)


class Prepare:
    """Makes of each photo, taken whole, what the preprocess stage makes of it.

    `image` is the bytes of uint8 (size, size, channels), null beside an error. Photos of the same
    `digest` have the same pixels and must not be on two sides of a split.
    """

    def __init__(self, settings: params.ImageSettings) -> None:
        self._settings = settings
        # Parquet keeps the numbers of a list as 32 bits each.
        self._tensor = pa.binary(settings.size**2 * settings.channels)
        self.schema = pa.schema(
            {
                "file": pa.string(),
                "image": self._tensor,
                "height": pa.int32(),
                "width": pa.int32(),
                "digest": pa.string(),
                "error": pa.string(),
            }
        )

    def describe(self) -> dict[str, Any]:
        """The image settings."""
        return {"work": "preprocess", "images": self._settings.model_dump()}

    def table(self, chunk: list[Source]) -> pa.Table:
        """Columns as in the schema."""
        side = self._settings.size
        photos, errors = sources.read_all(chunk)
        fitted = np.zeros((len(chunk), side, side, 3), np.uint8)
        rows: list[dict[str, Any]] = []
        for place, (source, photo) in enumerate(zip(chunk, photos, strict=True)):
            row: dict[str, Any] = {"file": source.name, "error": errors.get(place)}
            rows.append(row)
            if place in errors:
                continue
            try:
                image = images.decode(photo)
                fitted[place] = images.crop_and_resize(image, self._settings)
            except images.ImageError as error:
                row["error"] = str(error)
                continue
            row["height"], row["width"] = height, width = image.shape[:2]
            row["digest"] = f"{width}x{height}-{xxhash.xxh3_128_hexdigest(image.data)}"
        prepared = images.equalize(fitted, self._settings)
        for row, tensor in zip(rows, prepared, strict=True):
            if row["error"] is None:
                row["image"] = tensor.tobytes()
        return pa.Table.from_pylist(rows, self.schema)


@dataclass(frozen=True)
class Job:
    """What a worker must know: what to do, where relative paths begin, whereto, which column."""

    work: Work
    folder: str
    output: str
    column: str


def run(
    work: Work,
    places: list[str],
    output: str,
    column: str = "image",
    shard: int = SHARD,
    workers: int | None = None,
) -> int:
    """Do the work on all photos, on this machine or on the cluster that RAY_ADDRESS names.

    Args:
        work: what to do.
        places: files, folders, zip archives and Parquet files, or addresses of such (s3://...).
        output: folder or address, which gets a Parquet file for each shard.
        column: of Parquet files, where the photos' bytes are.
        shard: photos a task and output file, at least; one archive elsewhere is one shard.
        workers: processes on this machine; None: one for each core.

    Returns:
        The number of photos that could not be used.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        UserError: photos that cannot be found, or an output that cannot be written or is not
            this job's.
    """
    if workers and "RAY_ADDRESS" in os.environ:
        raise UserError("The cluster at RAY_ADDRESS has its own workers; leave out --workers.")
    ray = _import_ray()
    output = output if "://" in output else str(Path(output).absolute())
    shards = [
        {"number": number, **found} for number, found in enumerate(_shards(places, column, shard))
    ]
    waiting = _waiting(work, shards, output)
    done = len(shards) - len(waiting)
    if done:
        print(f"{done} of {len(shards)} shards are there already.")
    _start(ray, workers)
    counts: Counter[str] = Counter()
    started = time.perf_counter()
    job = Job(work, str(Path.cwd()), output, column)
    tasks = ray.data.from_items(waiting, override_num_blocks=len(waiting)).map_batches(
        functools.partial(_work_off, job), batch_size=1, batch_format="pyarrow", num_cpus=1
    )
    try:
        with bar(sum(found["photos"] for found in waiting), "photos", " photos") as progress:
            for row in tasks.iter_rows():
                counts.update(row)
                progress.update(row["photos"])
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise UserError(f"The job stopped ({why}); the same command goes on with it.") from error
    finally:
        ray.shutdown()
    seconds = time.perf_counter() - started
    missing = len({_name(found) for found in shards} - _names(output))
    if missing:
        raise UserError(
            f"{missing} of {len(shards)} shards are not in {output}: workers on other machines "
            "have a folder of that name of their own. Name one that all share, or s3://..."
        )
    print(
        f"{counts['photos']:,} photos: {counts['unknown']:,} unknown, {counts['errors']:,} not "
        f"readable; {counts['photos'] / seconds:,.0f} photos/s. Results: {output}"
    )
    return counts["errors"]


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if os.environ.get("RAY_ADDRESS", "127.").startswith(("127.", "localhost")):
        # Else Ray on Linux puts another address of the machine in place of the loopback one.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    import ray.data

    return ray


def _start(ray: Any, workers: int | None) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    options["runtime_env"] = {"py_modules": [str(Path(__file__).parents[1])]}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"num_cpus": workers or cores(), "object_store_memory": OBJECT_STORE}
        # Not to the cluster of somebody else on this machine, as by default.
        options |= {"address": "local", "include_dashboard": False}
    ray.init(**options)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _waiting(work: Work, shards: list[Shard], output: str) -> list[Shard]:
    """The shards whose results are missing; leaves a note in the output of whose it is."""
    digest = hashlib.sha256(json.dumps(shards).encode()).hexdigest()
    about = json.dumps({**work.describe(), "shards": len(shards), "sha256": digest}, indent=2)
    try:
        names = _names(output)
        if METADATA in names:
            if _read(f"{output}/{METADATA}", "").decode() != about:
                raise UserError(
                    f"{output} holds the results of other photos or settings, or of another "
                    "classifier; name another --output."
                )
        elif names:
            raise UserError(f"{output} is not empty; name another --output.")
        else:
            _write(output, METADATA, about.encode())
    except UNREADABLE as error:
        raise UserError(f"{output} cannot be written: {error}.") from error
    waiting = [shard for shard in shards if _name(shard) not in names]
    if not waiting:
        raise UserError(f"{output} is complete already; name another --output.")
    return waiting


def _names(output: str) -> set[str]:
    place, folder = _place(output)
    entries = place.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {entry.base_name for entry in entries}


def _name(shard: Shard) -> str:
    return f"part-{shard['number']:07}.parquet"


def _work_off(job: Job, rows: pa.Table) -> pa.Table:
    """Do one shard; returns its counts."""
    cv2.setNumThreads(1)
    (shard,) = rows.to_pylist()
    table = pa.concat_tables([job.work.table(chunk) for chunk in _chunks(job, shard)])
    content = pa.BufferOutputStream()
    # Tensors hardly repeat, and nobody looks for the smallest.
    pq.write_table(table, content, use_dictionary=["name", "model"], write_statistics=False)
    _write(job.output, _name(shard), content.getvalue())
    errors = len(table) - table["error"].null_count
    known = table["known"].to_pylist() if "known" in table.column_names else []
    return pa.table({"photos": [len(table)], "errors": [errors], "unknown": [known.count(False)]})


def _write(folder: str, name: str, content: bytes | pa.Buffer) -> None:
    """Write a file that is there once it is whole, as an object in a store is anyway."""
    place, path = _place(folder)
    if not isinstance(place, fs.LocalFileSystem):
        with place.open_output_stream(f"{path}/{name}") as file:
            file.write(content)
        return
    # Two workers may do the same shard, if one was only thought dead: each its own file.
    unfinished = Path(path, f".{name}.{uuid.uuid4().hex}")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_bytes(content)
    unfinished.replace(Path(path, name))


def _chunks(job: Job, shard: Shard) -> Iterator[list[Source]]:
    """The shard's photos in chunks; those of a distant store are read ahead of their turn."""
    chunks = sources.chunks(_sources(job, shard))
    if shard["path"] or "://" not in shard["names"][0]:
        yield from chunks
        return
    ahead: deque[list[Source]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for chunk in chunks:
            ahead.append([replace(s, read=pool.submit(s.read).result) for s in chunk])
            if len(ahead) > 2:
                yield ahead.popleft()
        yield from ahead


def _sources(job: Job, shard: Shard) -> Iterator[Source]:
    path = shard["path"]
    if not path:
        for name, size in zip(shard["names"], shard["sizes"], strict=True):
            yield _source(name, size, functools.partial(_read, name, job.folder))
        return
    read = _read_parquet if _kind(path) == "parquet" else _read_archive
    found = 0
    try:
        for source in read(job, shard):
            yield source
            found += 1
    except UNREADABLE as error:
        # It was whole when the job began.
        problem = PhotoError(f"{path} cannot be read: {error}")
        for row in range(shard["first"] + found, shard["first"] + shard["photos"]):
            yield _source(f"{path}/{row}", 0, functools.partial(_fail, problem))


def _read_parquet(job: Job, shard: Shard) -> Iterator[Source]:
    place, path = _place(shard["path"], job.folder)
    row = shard["first"]
    with place.open_input_file(path) as opened, pq.ParquetFile(opened) as file:
        for group in range(shard["start"], shard["stop"]):
            cells = file.read_row_group(group, columns=[job.column])[job.column].combine_chunks()
            for cell in cells.field("bytes") if pa.types.is_struct(cells.type) else cells:
                content = cell.as_py() or b""
                read = functools.partial(bytes, content)
                yield _source(f"{shard['path']}/{row}", len(content), read)
                row += 1


def _read_archive(job: Job, shard: Shard) -> Iterator[Source]:
    archive, photos = _archive(shard["path"], job.folder)
    for member, size in photos[shard["start"] : shard["stop"]]:
        read = functools.partial(archive.read, member)
        yield _source(f"{shard['path']}/{member}", size, read)


@functools.lru_cache(1)
def _archive(address: str, folder: str) -> tuple[Archive, list[tuple[str, int]]]:
    """An archive, and its photos with their sizes."""
    archive = _open_archive(*_place(address, folder))
    return archive, [item for item in archive.sizes().items() if sources.is_photo(item[0])]


def _open_archive(place: fs.FileSystem, path: str) -> Archive:
    if isinstance(place, fs.LocalFileSystem):
        return Archive(Path(path))
    with tempfile.NamedTemporaryFile() as copy:  # an open file outlives its name
        with place.open_input_stream(path) as stream:
            shutil.copyfileobj(stream, copy, 2**22)
        copy.flush()
        return Archive(Path(copy.name))


def _read(name: str, folder: str) -> bytes:
    place, path = _place(name, folder)
    with place.open_input_file(path) as file:
        content: bytes = file.read()
    return content


def _source(name: str, size: int, read: Callable[[], bytes]) -> Source:
    return Source(name, min(size, images.MAX_BYTES), functools.partial(sources.limited, size, read))


def _fail(problem: PhotoError) -> bytes:
    raise problem


def _place(address: str, folder: str = "") -> tuple[fs.FileSystem, str]:
    """The file system of a path, which may begin in a folder, or of an address; the path there."""
    scheme, found, rest = address.partition("://")
    if not found:
        return fs.LocalFileSystem(), str(Path(folder, address))
    return _store(scheme, rest.partition("/")[0]), rest.rstrip("/")


@functools.lru_cache
def _store(scheme: str, bucket: str) -> fs.FileSystem:
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def _shards(places: list[str], column: str, size: int) -> Iterator[Shard]:
    """The photos in natural order, cut into shards.

    Raises:
        UserError: there are none, or an archive or a Parquet file cannot be used.
    """
    with ThreadPoolExecutor(READERS) as pool:
        for address in places:
            print(f"Looking for photos in {address} ...", flush=True)
            for kind, group in itertools.groupby(_files(address), lambda file: _kind(file[0])):
                files = list(group)
                if kind == "photo":
                    for start in range(0, len(files), size):
                        names, sizes = zip(*files[start : start + size], strict=True)
                        yield _shard("", 0, len(names), 0, len(names), names, sizes)
                    continue
                cut = functools.partial(CUTS[kind], column, size)
                for shards in pool.map(cut, [name for name, _ in files]):
                    yield from shards


def _shard(
    path: str,
    start: int,
    stop: int,
    first: int,
    photos: int,
    names: Sequence[str] = (),
    sizes: Sequence[int] = (),
) -> Shard:
    """Photos `start` to `stop` of an archive, such row groups of a Parquet file, or single files.

    `first` is the place of the first photo in the file, `photos` how many there are.
    """
    shard = {"path": path, "start": start, "stop": stop, "first": first, "photos": photos}
    return {**shard, "names": list(names), "sizes": list(sizes)}


def _files(address: str) -> list[tuple[str, int]]:
    """Names and sizes of the photos, archives and Parquet files there, in natural order."""
    try:
        place, path = _place(address)
        found = place.get_file_info(path)
        if found.type == fs.FileType.NotFound:
            raise UserError(f"{address} does not exist.")
        if found.is_file:
            return [(address, found.size)]
        entries = place.get_file_info(fs.FileSelector(path, recursive=True))
    except UNREADABLE as error:
        raise UserError(f"{address} cannot be listed: {error}.") from error
    store = address.partition("://")[0] + "://" if "://" in address else ""
    files = [
        (store + entry.path if store else str(Path(entry.path)), entry.size)
        for entry in entries
        if entry.is_file and (sources.is_photo(entry.path) or _kind(entry.path) != "photo")
    ]
    if not files:
        raise UserError(
            f"{address} holds no photos ({sources.suffixes()}), zip archives or Parquet files."
        )
    return sorted(files, key=lambda file: sources.natural(file[0]))


def _kind(path: str) -> str:
    hidden = path.rpartition("/")[2].startswith(".")
    suffix = path.lower().rpartition(".")[2]
    return suffix if suffix in CUTS and not hidden else "photo"


def _cut_archive(column: str, size: int, path: str) -> list[Shard]:
    try:
        place, inner = _place(path)
        with place.open_input_file(inner) as file, zipfile.ZipFile(file) as archive:
            photos = sum(sources.is_photo(info.filename) for info in archive.infolist())
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a zip archive: {error}") from error
    if not photos:
        raise UserError(f"{path} holds no photos ({sources.suffixes()}).")
    step = photos if "://" in path else size  # fetched whole, by one worker
    return [
        _shard(path, start, start + step, start, min(step, photos - start))
        for start in range(0, photos, step)
    ]


def _cut_parquet(column: str, size: int, path: str) -> list[Shard]:
    try:
        place, inner = _place(path)
        with place.open_input_file(inner) as file:
            about = pq.ParquetFile(file)
            schema, groups = about.schema_arrow, about.metadata
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
            shards.append(_shard(path, start, group + 1, first, rows))
            start, first, rows = group + 1, first + rows, 0
    return shards


CUTS = {"zip": _cut_archive, "parquet": _cut_parquet}
