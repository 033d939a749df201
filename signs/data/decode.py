"""Photos → one array of prepared images, on all cores, with bounded memory."""

import math
import zipfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import xxhash

from signs import progress
from signs.data import audit, images, layouts
from signs.parallel import ordered_map
from signs.params import ImageSettings

CHUNK = 256  # files a task: few enough for a live progress bar, enough to hide its cost
READ_AHEAD = 32  # files that a worker reads at once: all of a task could be gigabytes

Chunk = tuple[int, list[str], list[images.Region | None]]  # number of the first, files, regions
Row = tuple[str, int, int]  # digest of the sign's pixels ("" if unusable), height and width of the photo


def decode_all(
    dataset: layouts.Dataset, settings: ImageSettings, path: Path
) -> tuple[pd.DataFrame, images.Image]:
    """Write all images of a data set into one .npy file, uint8 (N, size, size, channels).

    Appends what cannot be used to the data set's problems; its image is black. Gives the samples,
    one row an image, and their thumbnails, uint8 (N, 16, 16), all 0 if the data set names its
    tracks, for then they are not compared.
    """
    table, compare = dataset.table, not audit.has_tracks(dataset.table)
    thumbnails = np.zeros((len(table), 16, 16), np.uint8)
    rows: list[Row] = []
    first_byte = create_array(path, (len(table), *settings.shape))
    work = partial(_decode_chunk, dataset.folder, settings, compare, path, first_byte)
    with progress.bar(len(table), "preprocess", " images") as bar:
        for more, small, problems in ordered_map(work, _chunks(table), cv2.setNumThreads, (1,)):
            thumbnails[len(rows) : len(rows) + len(more)] = small
            rows += more
            dataset.problems += problems
            bar.update(len(more))
    columns = ["digest", "height", "width"]
    return table.join(pd.DataFrame(rows, table.index, columns)), thumbnails


def create_array(path: Path, shape: tuple[int, ...]) -> int:
    """Make an .npy file of zeros, uint8; returns where its data begin."""
    return np.lib.format.open_memmap(path, "w+", np.uint8, shape).offset


def digest(image: images.Image) -> str:
    """Identifies the decoded pixels of a photo.

    128 bits: equal by chance in less than one of 10^29 sets of 40,000 photos. A cryptographic
    hash would be a tenth of the stage's time.
    """
    height, width = image.shape[:2]
    return f"{width}x{height}-{xxhash.xxh3_128_hexdigest(image.data)}"


def _chunks(table: pd.DataFrame) -> Iterator[Chunk]:
    names, regions = table["file"].tolist(), layouts.regions(table)
    for start in range(0, len(names), CHUNK):
        yield start, names[start : start + CHUNK], regions[start : start + CHUNK]


_reader = cache(layouts.Reader)


def _decode_chunk(
    folder: Path, settings: ImageSettings, compare: bool, path: Path, first_byte: int, chunk: Chunk
) -> tuple[list[Row], images.Image, list[layouts.Problem]]:
    """The rows, thumbnails and problems of a chunk, whose images it writes to `path`."""
    reader, (first, names, regions) = _reader(folder), chunk
    rows: list[Row] = []
    problems: list[layouts.Problem] = []
    thumbnails = np.zeros((len(names), 16, 16), np.uint8)
    # Each worker writes its own part, so no array travels between processes. Plain writes
    # report a full disk as an error; a memory map would die of it.
    with path.open("r+b") as output:
        output.seek(first_byte + first * math.prod(settings.shape))
        for start in range(0, len(names), READ_AHEAD):
            files = names[start : start + READ_AHEAD]
            # Reading and decoding in turns took a tenth to a fifth longer (benchmarks/speed.py),
            # perhaps because each finds the processor's caches full of the other.
            contents = [_read(reader, file) for file in files]
            stack = np.zeros((len(files), settings.size, settings.size, 3), np.uint8)
            for row, (file, content) in enumerate(zip(files, contents, strict=True)):
                try:
                    if isinstance(content, Exception):
                        raise content
                    image = images.decode(content)
                    stack[row] = images.crop_and_resize(image, settings, regions[start + row])
                except (images.ImageError, OSError, zipfile.BadZipFile) as error:
                    problems.append((file, str(error)))
                    rows.append(("", 0, 0))
                    continue
                # Of one photo, each sign counts by itself.
                sign = np.ascontiguousarray(images.crop(image, regions[start + row]))
                if compare:
                    thumbnails[start + row] = images.thumbnail(sign)
                rows.append((digest(sign), *image.shape[:2]))
            output.write(images.equalize(stack, settings).data)
    return rows, thumbnails, problems


def _read(reader: layouts.Reader, file: str) -> bytes | Exception:
    """The file's bytes, or why it cannot be read."""
    try:
        return reader.read(file)
    except (OSError, zipfile.BadZipFile) as error:
        return error
