"""Time the search for near-duplicates beside comparing all pairs, and write docs/duplicates.md.

    python -m benchmarks.duplicates               some minutes
    python -m benchmarks.duplicates --most 40000  no larger sets

The photos are a data set's (gtsrb if it is there), each thumbnail compared, tracks or not. More
than the set has are made of these: turned, moved, in other light, noisier. Each set is searched
class by class, as `preprocess` and `signs audit` do, and as one class, the worst case. Both ways
must find the same groups.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks import photos
from benchmarks.runs import FOLDER
from signs import machine
from signs.data import duplicates, images, layouts
from signs.data.alike import Ints, Pairs, Thumbnails, standardise
from signs.errors import UserError, run_stage
from signs.files import write_text
from signs.paths import DATA

COUNTS = (10_000, 40_000, 160_000)
SIMILARITY = 0.9
BLOCK = 1024
SIDE = 32


def measure() -> None:
    """Print a row for each number of photos, and write the page."""
    parser = argparse.ArgumentParser(description="Time of the search for near-duplicates.")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="photos of the largest set")
    most = parser.parse_args().most
    name = photos.photo_set()
    signs, labels = _signs(name)
    print(f"{len(signs):,} photos of {name}", flush=True)
    rows, before = [], dict[str, float]()
    for count in (count for count in COUNTS if count <= most):
        thumbnails, classes = _thumbnails(signs, labels, count)
        for kind, chosen in (("as they are", classes), ("one", np.zeros(count, np.int64))):
            cells, seconds = _row(thumbnails, chosen)
            growth = f"{seconds / before[kind]:.1f}" if kind in before else "–"
            before[kind] = seconds
            rows.append([f"{count:,}", kind, *cells, growth])
            print(" | ".join(rows[-1]), flush=True)
    head = ["photos", "classes", "groups", "s", "s, all pairs", "ratio", "time of the row before"]
    table = [head, ["---:"] * len(head), *rows]
    text = "\n".join(f"| {' | '.join(row)} |" for row in table)
    page = (FOLDER / "duplicates.md").read_text(encoding="utf-8")
    content = page.format(rows=text, photos=name, processor=machine.processor())
    write_text(Path("docs/duplicates.md"), content)


def _signs(name: str) -> tuple[Thumbnails, Ints]:
    """The grey signs of a data set, (N, SIDE, SIDE), and their classes."""
    dataset = layouts.read(name, DATA)
    reader, table = layouts.Reader(dataset.folder), dataset.table
    signs = np.zeros((len(table), SIDE, SIDE), np.uint8)
    regions = layouts.regions(table)
    for place, (file, region) in enumerate(zip(table["file"], regions, strict=True)):
        photo = images.crop(images.decode(reader.read(file)), region)
        signs[place] = images.thumbnail(np.ascontiguousarray(photo), SIDE)
    return signs, table["class_id"].to_numpy(np.int64)


def _thumbnails(signs: Thumbnails, labels: Ints, count: int) -> tuple[Thumbnails, Ints]:
    """As many thumbnails, and their classes: some of the signs, or all with changed ones."""
    chosen = np.linspace(0, len(signs) - 1, min(count, len(signs))).astype(int)
    rows = np.resize(chosen, count)
    rng = np.random.default_rng(1)
    made = np.zeros((count, 16, 16), np.uint8)
    for place, row in enumerate(rows):
        sign = signs[row] if place < len(chosen) else _changed(signs[row], rng)
        made[place] = cv2.resize(sign, (16, 16), interpolation=cv2.INTER_AREA)
    return made, labels[rows]


def _changed(sign: images.Image, rng: np.random.Generator) -> images.Image:
    degrees, scale = rng.uniform(-12, 12), rng.uniform(0.8, 1.2)
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, scale)
    matrix[:, 2] += rng.integers(-3, 4, 2)
    moved = cv2.warpAffine(sign, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    noisy = moved * rng.uniform(0.5, 1.5) + rng.normal(0, rng.uniform(0, 16), moved.shape)
    clipped: images.Image = np.clip(noisy, 0, 255).astype(np.uint8)
    return clipped


def _row(thumbnails: Thumbnails, labels: Ints) -> tuple[list[str], float]:
    """The cells of both ways, and the seconds of ours."""
    found, seconds = _timed(duplicates.near_duplicate_pairs, thumbnails, labels)
    expected, all_pairs = _timed(_compare_all, thumbnails, labels)
    group = duplicates.groups(len(labels), found)
    if not np.array_equal(group, duplicates.groups(len(labels), expected)):
        raise UserError("The two ways find other groups: this is a defect of signs/data/alike.py.")
    ratio = f"{seconds / all_pairs:.2f}"
    cells = [f"{len(np.unique(group)):,}", f"{seconds:.1f}", f"{all_pairs:.1f}", ratio]
    return cells, seconds


def _timed(
    search: Callable[[Thumbnails, Ints, float], Pairs], thumbnails: Thumbnails, labels: Ints
) -> tuple[Pairs, float]:
    """What a search finds, and its seconds of processor time, which other work disturbs least."""
    started = time.process_time()
    found = search(thumbnails, labels, SIMILARITY)
    return found, time.process_time() - started


def _compare_all(thumbnails: Thumbnails, labels: Ints, similarity: float) -> Pairs:
    """Pairs that join all near-duplicates, by the correlation of all pairs of a class."""
    vectors = standardise(thumbnails)
    pairs = np.empty((0, 2), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        for start in range(0, len(rows), BLOCK):
            block, later = rows[start : start + BLOCK], rows[start:]
            for begin in range(0, len(later), BLOCK):
                others = later[begin : begin + BLOCK]
                first, second = np.nonzero(vectors[block] @ vectors[others].T > similarity)
                pairs = np.concatenate([pairs, np.stack([block[first], others[second]], axis=1)])
            if len(pairs) > duplicates.MOST_PAIRS:
                pairs = _fewer(pairs, len(labels))
    return pairs


def _fewer(pairs: Pairs, count: int) -> Pairs:
    """Pairs that join the same: each image with the first of its group."""
    group = duplicates.groups(count, pairs)
    first = np.unique(group, return_index=True)[1]
    return np.stack([first[group], np.arange(count)], axis=1)


if __name__ == "__main__":
    run_stage(measure)
