"""Name the signs on photos: files, folders, zip archives and standard input.

    signs predict photo.jpg folder archive.zip
    signs predict --output predictions.csv folder
    curl https://example.org/photo.jpg | signs predict -

Gives the same predictions as the HTTP API, with the same code. Exits with 1 if a photo could not
be read; its row says why. `signs bulk predict` does the same for millions of photos.
"""

import argparse
import contextlib
import csv
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from signs import files, paths
from signs.data import sources
from signs.data.images import Box, ImageError, box_of
from signs.data.sources import Source
from signs.errors import UserError
from signs.inference.classifier import Classifier, folder_of, released
from signs.inference.predictions import Prediction, predict_photos
from signs.machine import cores

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("file", "prediction", "name", "confidence", "known", "model", "error")
RELEASED = "gtsrb"  # reads where nothing has been trained
SUFFIX_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "table"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, folder, zip archive or -")
    parser.add_argument(
        "--format",
        choices=["table", "csv", "json"],
        help="json: one line a photo; default: that of --output's suffix, "
        "else a table on a terminal and csv elsewhere",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write a file, print nothing")
    parser.add_argument(
        "--box", metavar="X1,Y1,X2,Y2", help="where the sign is on each photo, in pixels"
    )
    add_classifier(parser)


def add_classifier(parser: argparse.ArgumentParser) -> None:
    """Add the option that names another classifier."""
    parser.add_argument(
        "--classifier",
        metavar="FOLDER|NAME",
        help=f"a classifier's folder, or one of those released: {', '.join(released())}; "
        f"default: {paths.CLASSIFIER} of this project, or {RELEASED} as long as nothing is trained",
    )


def chosen_folder(chosen: str | None) -> Path:
    """Where the chosen classifier is; None chooses the trained one, or one that was released.

    Raises:
        ClassifierError: there is none of this name.
    """
    if chosen is None:
        trained = ROOT / paths.CLASSIFIER
        if trained.exists():
            return trained
        print(f"Nothing is trained here, so the released {RELEASED} reads.", file=sys.stderr)
    return folder_of(chosen or RELEASED)


def run(arguments: argparse.Namespace) -> int:
    """Print or write one row a photo; 1 if one could not be read."""
    for path in arguments.paths:
        if "://" in path or path.endswith(".parquet"):
            raise UserError(f"{path}: only `signs bulk` reads addresses and Parquet files.")
    output = arguments.output
    style = arguments.format or (SUFFIX_FORMATS.get(output.suffix.lower()) if output else None)
    style = style or ("table" if sys.stdout.isatty() and not output else "csv")
    try:
        box = box_of(arguments.box) if arguments.box else None
    except ImageError as error:
        raise UserError(f"--box: {error}.") from error
    classifier = Classifier(chosen_folder(arguments.classifier), threads=1)
    photos = [photo for path in arguments.paths for photo in sources.at(path)]
    counts: Counter[str] = Counter()
    started = time.perf_counter()
    with _written(output) if output else contextlib.nullcontext(sys.stdout) as file:
        # Beside predictions on the same terminal a bar would be torn apart.
        silent = not sys.stderr.isatty() or file.isatty()
        write = _writer(style, file)
        rows = tqdm(
            _rows(classifier, photos, box), "predict", len(photos), unit=" photos", disable=silent
        )
        for row in rows:
            write(row)
            counts["error" if "error" in row else "known" if row["known"] else "unknown"] += 1
        file.flush()
    rate = len(photos) / (time.perf_counter() - started)
    print(
        f"{len(photos):,} photos: {counts['known']:,} known, {counts['unknown']:,} unknown, "
        f"{counts['error']:,} not readable; {rate:,.0f} photos/s",
        file=sys.stderr,
    )
    return 1 if counts["error"] else 0


def _rows(classifier: Classifier, photos: list[Source], box: Box | None) -> Iterator[Prediction]:
    """All predictions, in order; twice as many chunks as cores are worked on or wait."""
    waiting: deque[Future[list[Prediction]]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for chunk in sources.chunks(photos):
                waiting.append(pool.submit(predict_chunk, classifier, chunk, box))
                if len(waiting) > 2 * cores():
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def predict_chunk(
    classifier: Classifier, chunk: list[Source], box: Box | None = None
) -> list[Prediction]:
    """One row for each photo; that of a photo which cannot be read has only `file` and `error`.

    The box says where the sign is on all of them; None: they show little else.
    """
    photos, errors = sources.read_all(chunk)
    predictions = predict_photos(classifier, photos, [box] * len(photos))
    return [
        {"file": source.name, **({"error": errors[i]} if i in errors else prediction)}
        for i, (source, prediction) in enumerate(zip(chunk, predictions, strict=True))
    ]


@contextlib.contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A file that is there once all of it is."""
    try:
        with files.replaced(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


def _writer(style: str, file: TextIO) -> Callable[[Prediction], object]:
    """What writes a row; the head of a table is written at once."""
    if style == "csv":
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        return writer.writerow
    if style == "json":
        return lambda row: file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.write(f"{'SIGN':<44} {'CONFIDENCE':>10}  FILE\n")
    return lambda row: file.write(_line(row))


def _line(row: Prediction) -> str:
    """A line of the table."""
    if "error" in row:
        sign, confidence = f"error: {row['error']}", ""
    else:
        sign = row["name"] if row["known"] else f"unknown ({row['name']}?)"
        confidence = f"{100 * row['confidence']:.1f} %"
    return f"{sign:<44} {confidence:>10}  {row['file']}\n"
