"""Photos → one array of prepared images, on all cores, with bounded memory."""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from signs import progress
from signs.data import audit, images, layouts
from signs.parallel import ordered_map
from signs.params import ImageSettings

CHUNK = 256  # files a task: few enough for a live progress bar, enough to hide its cost
READ_AHEAD = 32  # files that a worker reads at once: all of a task could be gigabytes

Chunk = tuple[int, list[str], npt.NDArray[np.float64]]  # number of the first, files, regions


@dataclass
class Decoded:
    """What decoding one chunk of n files gave, besides their arrays."""

    thumbnails: npt.NDArray[np.uint8] | None  # (n, 16, 16); None where they are not needed
    digests: list[str]  # of the decoded pixels; "" for an unusable file
    shapes: npt.NDArray[np.int64]  # (n, 2) heights and widths
    problems: list[tuple[str, str]]  # file, what is wrong


def decode_all(
    dataset: layouts.Dataset, settings: ImageSettings, path: Path
) -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:
    """Write all images of a data set into one .npy file, uint8 (N, size, size, channels).

    Appends what cannot be used to the data set's problems; its image is black.

    Returns:
        The samples, one row an image, and their thumbnails, uint8 (N, 16, 16), all 0 if the
        data set names its tracks, for then they are not compared.
    """
    samples = dataset.table.copy()
    thumbnails = np.zeros((len(samples), 16, 16), np.uint8)
    digests: list[str] = []
    shapes = np.zeros((len(samples), 2), np.int64)
    first_byte = create_array(path, (len(samples), *settings.shape))
    start = (dataset.folder, settings, not audit.has_tracks(samples), path, first_byte)
    with progress.bar(len(samples), "preprocess", " images") as bar:
        for decoded in ordered_map(_decode_chunk, _chunks(samples), _open_dataset, start):
            rows = slice(len(digests), len(digests) + len(decoded.digests))
            if decoded.thumbnails is not None:
                thumbnails[rows] = decoded.thumbnails
            digests += decoded.digests
            shapes[rows] = decoded.shapes
            dataset.problems += decoded.problems
            bar.update(len(decoded.digests))
    samples["digest"] = digests
    samples[["height", "width"]] = shapes
    return samples, thumbnails


def create_array(path: Path, shape: tuple[int, ...]) -> int:
    """Make an .npy file of zeros, uint8; returns where its data begin."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        first_byte = file.tell()
        file.truncate(first_byte + math.prod(shape))
    return first_byte


def digest(image: images.Image) -> str:
    """Identifies the decoded pixels of a photo.

    128 bits: equal by chance in less than one of 10^29 sets of 40,000 photos. A cryptographic
    hash would be a tenth of the stage's time.
    """
    height, width = image.shape[:2]
    return f"{width}x{height}-{xxhash.xxh3_128_hexdigest(image.data)}"


def _chunks(samples: pd.DataFrame) -> Iterator[Chunk]:
    names = samples["file"].tolist()
    regions = samples[images.REGION].to_numpy()
    for start in range(0, len(names), CHUNK):
        yield start, names[start : start + CHUNK], regions[start : start + CHUNK]


_worker: dict[str, Any] = {}


def _open_dataset(
    folder: Path, settings: ImageSettings, compare: bool, path: Path, first_byte: int
) -> None:
    cv2.setNumThreads(1)
    _worker.update(
        reader=layouts.Reader(folder),
        settings=settings,
        compare=compare,
        file=path.open("r+b"),
        first_byte=first_byte,
    )


def _decode_chunk(chunk: Chunk) -> Decoded:
    settings: ImageSettings = _worker["settings"]
    first, names, regions = chunk
    places = [None if region[0] != region[0] else region for region in regions.tolist()]
    # Each worker writes its own part, so no array travels between processes. Plain writes
    # report a full disk as an error; a memory map would die of it.
    output = _worker["file"]
    output.seek(_worker["first_byte"] + first * math.prod(settings.shape))
    thumbnails = np.zeros((len(names), 16, 16), np.uint8) if _worker["compare"] else None
    result = Decoded(thumbnails, [], np.zeros((len(names), 2), np.int64), [])
    for start in range(0, len(names), READ_AHEAD):
        few = slice(start, start + READ_AHEAD)
        # Reading and decoding in turns took a tenth to a fifth longer (benchmarks/speed.py),
        # perhaps because each finds the processor's caches full of the other.
        contents = [_read(file) for file in names[few]]
        stack = np.zeros((len(contents), settings.size, settings.size, 3), np.uint8)
        for row, (file, content) in enumerate(zip(names[few], contents, strict=True)):
            try:
                if isinstance(content, Exception):
                    raise content
                image = images.decode(content)
                stack[row] = images.crop_and_resize(image, settings, places[start + row])
            except (images.ImageError, OSError, zipfile.BadZipFile) as error:
                result.problems.append((file, str(error)))
                result.digests.append("")
                continue
            if thumbnails is not None:
                thumbnails[start + row] = images.thumbnail(image)
            result.digests.append(digest(image))
            result.shapes[start + row] = image.shape[:2]
        output.write(images.equalize(stack, settings).data)
    output.flush()
    return result


def _read(file: str) -> bytes | Exception:
    """The file's bytes, or why it cannot be read."""
    try:
        content: bytes = _worker["reader"].read(file)
    except (OSError, zipfile.BadZipFile) as error:
        return error
    return content
