"""Photos → arrays, leak-free splits and an audit of the data.

Run by `dvc repro preprocess`, or alone: python -m stages.preprocess
"""

import math
import shutil
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

from signs import params, progress
from signs.data import arrays, audit, images, layouts, splits
from signs.errors import run_stage
from signs.parallel import ordered_map

METRICS = Path("metrics/preprocess")
SYNTHETIC, OUTLIERS = "synthetic", "auxiliary_outliers"
CHUNK = 256  # files a task: few enough for a live progress bar, enough to hide its cost
TOGETHER = 32  # files that a worker reads ahead: all of a task could be gigabytes
REGION = ["left", "top", "right", "bottom"]

Chunk = tuple[int, list[str], npt.NDArray[np.float64]]  # number of the first, files, regions


@dataclass
class Decoded:
    """What decoding one chunk of n files gave, besides their arrays."""

    thumbnails: npt.NDArray[np.uint8] | None  # (n, 16, 16); None where they are not needed
    digests: list[str]  # of the decoded pixels; "" for an unusable file
    shapes: npt.NDArray[np.int64]  # (n, 2) heights and widths
    problems: list[tuple[str, str]]  # file, what is wrong


def preprocess() -> None:
    """Decode the chosen photo set, split it without leaks, write arrays and audit."""
    settings = params.load()
    dataset = layouts.read(settings.dataset)
    METRICS.mkdir(parents=True, exist_ok=True)
    # A killed run must not leave half an array where training looks for a whole one.
    staging = arrays.FOLDER.with_name("prepared.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        samples, thumbnails = decode_all(dataset, settings.images, staging / arrays.IMAGES)
        labels = _labels(dataset, samples)
        dataset.problems += audit.find_label_conflicts(samples)
        audit.assign_splits(samples, thumbnails, settings.preprocess.split)
        found = audit.measure(samples, thumbnails, settings.preprocess.split)
        found["synthetic"] = add_synthetic(settings, labels, samples, staging)
        outlier_names = add_auxiliary_outliers(settings, labels, staging)
        audit.write(METRICS, found, samples, labels, dataset)
        audit.refuse_bad_data(found, dataset.problems, settings.preprocess, METRICS)
        samples[arrays.COLUMNS].to_csv(staging / arrays.SAMPLES, index=False)
        labels.to_csv(staging / arrays.LABELS, index=False)
        split = settings.preprocess.split
        arrays.describe(staging, settings.dataset, settings.images, split, outlier_names)
        shutil.rmtree(arrays.FOLDER, ignore_errors=True)
        staging.rename(arrays.FOLDER)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(audit.summary(found))


def decode_all(
    dataset: layouts.Dataset, settings: params.ImageSettings, path: Path
) -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:
    """Write all images into one .npy file; returns the samples and their thumbnails."""
    samples = dataset.table.copy()
    thumbnails = np.zeros((len(samples), 16, 16), np.uint8)
    digests: list[str] = []
    shapes = np.zeros((len(samples), 2), np.int64)
    first_byte = _create(path, (len(samples), *_shape(settings)))
    # Where the set names its tracks, thumbnails are not compared: see audit.assign_splits.
    start = (dataset.folder, settings, not audit.has_tracks(samples), path, first_byte)
    with progress.bar(len(samples), "preprocess", " images") as bar:
        for decoded in ordered_map(_decode_chunk, _chunks(samples), _open_dataset, start):
            done = len(digests) + len(decoded.digests)
            if decoded.thumbnails is not None:
                thumbnails[len(digests) : done] = decoded.thumbnails
            digests += decoded.digests
            shapes[done - len(decoded.digests) : done] = decoded.shapes
            dataset.problems += decoded.problems
            bar.update(len(decoded.digests))
    samples["digest"] = digests
    samples[["height", "width"]] = shapes
    return samples, thumbnails


def add_synthetic(
    settings: params.Params, labels: pd.DataFrame, samples: pd.DataFrame, staging: Path
) -> dict[str, int]:
    """Write drawn photos of the set's classes, matched by name: they train beside the photos.

    A drawn photo that the set holds out itself (somebody may have copied it there) is left out.

    Returns:
        How many there are, of how many classes.

    Raises:
        DatasetError: the drawn photos are missing or damaged.
    """
    images_file, labels_file = staging / arrays.SYNTHETIC_IMAGES, staging / arrays.SYNTHETIC_LABELS
    if settings.dataset == SYNTHETIC or not settings.train.recipe.synthetic_share:
        _create(images_file, (0, *_shape(settings.images)))
        np.save(labels_file, np.empty(0, np.int64))
        return {"photos": 0, "classes": 0}
    drawn = layouts.read(SYNTHETIC)
    names = labels["Name"].str.casefold()
    names = names[~names.duplicated(keep=False)]  # nobody can tell which of two is meant
    label_of = {name: label for label, name in names.items()}
    drawn.table["label"] = drawn.table["class_id"].map(drawn.names).str.casefold().map(label_of)
    drawn.table = drawn.table[drawn.table["label"].notna()]
    decoded = _decode_synthetic(drawn, settings.images, images_file)
    held_out = samples["digest"][samples["split"].isin([splits.VALIDATION, splits.TEST])]
    twins = decoded["digest"].isin(held_out).to_numpy()
    if twins.any():
        np.save(images_file, np.load(images_file)[~twins])
    synthetic_labels = decoded["label"][~twins].to_numpy(np.int64)
    np.save(labels_file, synthetic_labels)
    return {"photos": len(synthetic_labels), "classes": len(np.unique(synthetic_labels))}


def add_auxiliary_outliers(
    settings: params.Params, labels: pd.DataFrame, staging: Path
) -> list[str]:
    """Write drawn photos of what is none of the set's classes; returns the names of what it is.

    Raises:
        DatasetError: they are missing or damaged.
    """
    path = staging / arrays.OUTLIERS
    if not settings.train.recipe.auxiliary_outlier_share:
        _create(path, (0, *_shape(settings.images)))
        return []
    outliers = layouts.read(OUTLIERS)
    # Any folder may hold a class that the label sets' authors thought of as another's.
    own = set(labels["Name"].str.casefold())
    names = outliers.table["class_id"].map(outliers.names)
    strange = ~names.str.casefold().isin(own)
    outliers.table = outliers.table[strange]
    _decode_synthetic(outliers, settings.images, path)
    return sorted(names[strange].unique())


def _decode_synthetic(
    drawn: layouts.Dataset, settings: params.ImageSettings, path: Path
) -> pd.DataFrame:
    decoded, _ = decode_all(drawn, settings, path)
    if drawn.problems:
        raise layouts.DatasetError(
            f"{drawn.folder} is damaged ({': '.join(drawn.problems[0])}). "
            "Run `dvc repro -f synthesize`."
        )
    return decoded


def _shape(settings: params.ImageSettings) -> tuple[int, int, int]:
    return settings.size, settings.size, settings.channels


def _create(path: Path, shape: tuple[int, ...]) -> int:
    """Make an .npy file of zeros, which the workers fill; returns where its data begin."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        first_byte = file.tell()
        file.truncate(first_byte + math.prod(shape))
    return first_byte


def _chunks(samples: pd.DataFrame) -> Iterator[Chunk]:
    files = samples["file"].tolist()
    regions = samples[REGION].to_numpy()
    for start in range(0, len(files), CHUNK):
        yield start, files[start : start + CHUNK], regions[start : start + CHUNK]


_worker: dict[str, Any] = {}


def _open_dataset(
    folder: Path, settings: params.ImageSettings, compare: bool, path: Path, first_byte: int
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
    settings: params.ImageSettings = _worker["settings"]
    first, files, regions = chunk
    places = [None if region[0] != region[0] else region for region in regions.tolist()]
    # Each worker writes its own part, so no array travels between processes. Plain writes
    # report a full disk as an error; a memory map would die of it.
    output = _worker["file"]
    output.seek(_worker["first_byte"] + first * math.prod(_shape(settings)))
    thumbnails = np.zeros((len(files), 16, 16), np.uint8) if _worker["compare"] else None
    result = Decoded(thumbnails, [], np.zeros((len(files), 2), np.int64), [])
    for start in range(0, len(files), TOGETHER):
        few = slice(start, start + TOGETHER)
        # Reading and decoding in turns took a tenth to a fifth longer (benchmarks/speed.py),
        # perhaps because each finds the processor's caches full of the other.
        contents = [_read(file) for file in files[few]]
        fitted = np.zeros((len(contents), settings.size, settings.size, 3), np.uint8)
        for row, (file, content) in enumerate(zip(files[few], contents, strict=True)):
            try:
                if isinstance(content, Exception):
                    raise content
                image = images.decode(content)
                fitted[row] = images.crop_and_resize(image, settings, places[start + row])
            except (images.ImageError, OSError, zipfile.BadZipFile) as error:
                result.problems.append((file, str(error)))
                result.digests.append("")
                continue
            height, width = image.shape[:2]
            if thumbnails is not None:
                thumbnails[start + row] = images.thumbnail(image)
            # 128 bits: equal by chance in less than one of 10^29 sets of 40,000 photos. A
            # cryptographic hash would be a tenth of the stage's time.
            pixels = xxhash.xxh3_128_hexdigest(image.data)
            result.digests.append(f"{width}x{height}-{pixels}")
            result.shapes[start + row] = height, width
        output.write(images.equalize(fitted, settings).data)
    output.flush()
    return result


def _read(file: str) -> bytes | Exception:
    """The file's bytes, or why it cannot be read."""
    try:
        content: bytes = _worker["reader"].read(file)
    except (OSError, zipfile.BadZipFile) as error:
        return error
    return content


def _labels(dataset: layouts.Dataset, samples: pd.DataFrame) -> pd.DataFrame:
    """Number the classes that have a usable image; adds the column `label` to samples."""
    used = sorted(samples.loc[samples["digest"] != "", "class_id"].unique())
    samples["label"] = samples["class_id"].map({c: i for i, c in enumerate(used)}).fillna(-1)
    samples["label"] = samples["label"].astype(int)
    return pd.DataFrame({"ClassId": used, "Name": [dataset.names[c] for c in used]})


if __name__ == "__main__":
    run_stage(preprocess)
