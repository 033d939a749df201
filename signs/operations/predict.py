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
import functools
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from signs import files, paths
from signs.data import sources
from signs.data.sources import Source
from signs.errors import UserError
from signs.inference.classifier import Classifier
from signs.inference.predictions import predict_photos
from signs.parallel import cores

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("file", "prediction", "name", "confidence", "known", "model", "error")
SUFFIX_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "table"}

Prediction = dict[str, Any]


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
    add_classifier(parser)


def add_classifier(parser: argparse.ArgumentParser) -> None:
    """Add the option that names another classifier."""
    parser.add_argument(
        "--classifier",
        type=Path,
        default=ROOT / paths.CLASSIFIER,
        metavar="FOLDER",
        help=f"default: {paths.CLASSIFIER} of this project",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print or write one row a photo; 1 if one could not be read."""
    for path in arguments.paths:
        if "://" in path or path.endswith(".parquet"):
            raise UserError(f"{path}: only `signs bulk` reads addresses and Parquet files.")
    output = arguments.output
    style = arguments.format or (SUFFIX_FORMATS.get(output.suffix.lower()) if output else None)
    style = style or ("table" if sys.stdout.isatty() and not output else "csv")
    classifier = Classifier(arguments.classifier, threads=1)
    photos = [photo for path in arguments.paths for photo in sources.at(path)]
    counts: Counter[str] = Counter()
    started = time.perf_counter()
    with _destination(output) as file:
        # Beside predictions on the same terminal a bar would be torn apart.
        silent = not sys.stderr.isatty() or file.isatty()
        write = WRITERS[style](file)
        with tqdm(total=len(photos), desc="predict", unit=" photos", disable=silent) as progress:
            for source, prediction in _predictions(classifier, photos):
                write({"file": source.name, **prediction})
                counts[_kind(prediction)] += 1
                progress.update()
    rate = len(photos) / (time.perf_counter() - started)
    print(
        f"{len(photos):,} photos: {counts['known']:,} known, {counts['unknown']:,} unknown, "
        f"{counts['error']:,} not readable; {rate:,.0f} photos/s",
        file=sys.stderr,
    )
    return 1 if counts["error"] else 0


def _kind(prediction: Prediction) -> str:
    if "error" in prediction:
        return "error"
    return "known" if prediction["known"] else "unknown"


def _predictions(
    classifier: Classifier, photos: list[Source]
) -> Iterator[tuple[Source, Prediction]]:
    """All predictions, in order; twice as many chunks as cores are worked on or wait."""
    predict = functools.partial(_predict_chunk, classifier)
    waiting: deque[tuple[list[Source], Future[list[Prediction]]]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for chunk in sources.chunks(photos):
                waiting.append((chunk, pool.submit(predict, chunk)))
                if len(waiting) > 2 * cores():
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _predict_chunk(classifier: Classifier, chunk: list[Source]) -> list[Prediction]:
    photos, errors = sources.read_all(chunk)
    predictions = predict_photos(classifier, photos)
    return [{"error": errors[i]} if i in errors else row for i, row in enumerate(predictions)]


@contextlib.contextmanager
def _destination(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there once all of it is."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with (
            files.replaced(path) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


def _write_table(file: TextIO) -> Callable[[Prediction], None]:
    file.write(f"{'SIGN':<44} {'CONFIDENCE':>10}  FILE\n")

    def write(row: Prediction) -> None:
        if "error" in row:
            sign, confidence = f"error: {row['error']}", ""
        else:
            sign = row["name"] if row["known"] else f"unknown ({row['name']}?)"
            confidence = f"{100 * row['confidence']:.1f} %"
        file.write(f"{sign:<44} {confidence:>10}  {row['file']}\n")

    return write


def _write_csv(file: TextIO) -> Callable[[Prediction], None]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    return lambda row: writer.writerow([row.get(column) for column in COLUMNS])


def _write_json(file: TextIO) -> Callable[[Prediction], None]:
    def write(row: Prediction) -> None:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")

    return write


WRITERS: dict[str, Callable[[TextIO], Callable[[Prediction], None]]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
}
