"""The command line: names the signs on files, folders and archives of photos.

    signs predict photo.jpg folder archive.zip
    signs predict --output answers.csv folder
    signs predict --ray --output s3://bucket/answers s3://bucket/photos archive.zip photos.parquet
    signs preprocess --output tensors folder
    signs info

Answers are those of the HTTP API: same classifier, same code. With --ray they are a Ray Data job's
(signs/scale/bulk.py), as are prepared tensors.
"""

import argparse
import contextlib
import csv
import functools
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from signs import params
from signs.data import sources
from signs.data.sources import Source
from signs.errors import UserError
from signs.inference.classifier import FOLDER, Classifier
from signs.inference.predictions import Prediction as Answer
from signs.inference.predictions import predict_photos
from signs.parallel import cores

COLUMNS = ("file", "prediction", "name", "confidence", "known", "model", "error")
SUFFIX_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "table"}
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the command line.

    Exits with 0 if all photos were answered, 1 if one was not, 2 if the command makes no sense,
    130 on Ctrl-C and 141 if nobody reads the answers any more.
    """
    parser = argparse.ArgumentParser(prog="signs", description="Names the traffic signs on photos.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", help="name the signs on photos")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="file, folder, zip archive or -")
    predict.add_argument("--format", choices=["table", "csv", "json"], help="json: one a line")
    predict.add_argument("--output", metavar="FILE", help="instead of printing them")
    predict.add_argument("--ray", action="store_true", help="as a Ray Data job (docs/scale.md)")
    preprocess = commands.add_parser("preprocess", help="prepare photos as params.yaml says")
    preprocess.add_argument("paths", nargs="+", metavar="PATH")
    preprocess.add_argument("--output", required=True, metavar="FOLDER", help="or s3://...")
    for command in (predict, preprocess):
        group = command.add_argument_group("Ray", "PATH and --output may be s3://bucket/prefix")
        group.add_argument("--column", default="image", help="of photos in Parquet files (image)")
        group.add_argument("--shard", type=_count, default=2048, help="photos a task (2048)")
        group.add_argument("--workers", type=_count, help="processes here (one for each core)")
    info = commands.add_parser("info", help="say which classifier answers")
    info.add_argument("--json", action="store_true", help="all that classifier.json holds")
    for command, run in ((predict, _predict), (info, _info)):
        command.add_argument("--classifier", type=Path, default=ROOT / FOLDER, metavar="FOLDER")
        command.set_defaults(run=run)
    preprocess.set_defaults(run=_preprocess)
    arguments = parser.parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except UserError as error:
        sys.exit(f"ERROR: {error}")
    except BrokenPipeError:
        # What is still buffered has nowhere to go; closing would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


def _info(arguments: argparse.Namespace) -> int:
    about = Classifier(arguments.classifier).metadata
    if arguments.json:
        print(json.dumps(about.model_dump(), indent=2, ensure_ascii=False))
        return 0
    settings, origin = about.images, about.provenance
    validation = origin.get("validation") or {}
    print(f"version     {about.version}")
    print(f"data set    {origin.get('dataset')} (md5 {origin.get('data')})")
    print(f"git commit  {origin.get('commit')}")
    print(
        f"images      {settings.size}x{settings.size}, {settings.color}, "
        f"contrast: {settings.contrast}"
    )
    print(
        f"known from  confidence {about.threshold:.3f} and "
        f"energy score {about.energy_threshold:.2f}"
    )
    if validation:
        print(f"validation  {100 * validation['accuracy']:.2f}% of {validation['images']:,} photos")
    print(f"classes     {len(about.names)}")
    for class_id, name in zip(about.class_ids, about.names, strict=True):
        print(f"{class_id:>9}   {name}")
    return 0


def _preprocess(arguments: argparse.Namespace) -> int:
    settings = params.load(ROOT / params.PARAMS_FILE).images
    return _run_bulk(arguments, lambda bulk: bulk.Prepare(settings))


def _run_bulk(arguments: argparse.Namespace, make: Callable[[Any], Any]) -> int:
    try:
        from signs.scale import bulk

        options = (arguments.column, arguments.shard, arguments.workers)
        failed = bulk.run(make(bulk), arguments.paths, arguments.output, *options)
    except ModuleNotFoundError as error:
        if error.name not in ("pyarrow", "ray"):
            raise
        raise UserError("Bulk work needs Ray, which is not installed: `make setup-ray`.") from error
    return 1 if failed else 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.ray:
        if arguments.output is None or arguments.format:
            raise UserError("--ray writes Parquet files: name --output FOLDER, and no --format.")
        return _run_bulk(arguments, lambda bulk: bulk.Predict(arguments.classifier))
    for path in arguments.paths:
        if "://" in path or path.endswith(".parquet"):
            raise UserError(f"{path}: addresses and Parquet files are read with --ray alone.")
    output = Path(arguments.output) if arguments.output else None
    style = arguments.format or (SUFFIX_FORMATS.get(output.suffix.lower()) if output else None)
    style = style or ("table" if sys.stdout.isatty() and not output else "csv")
    classifier = Classifier(arguments.classifier, threads=1)
    photos = [photo for path in arguments.paths for photo in sources.at(path)]
    counts: Counter[str] = Counter()
    started = time.perf_counter()
    with _destination(output) as file:
        # Beside answers on the same terminal a bar would be torn apart.
        silent = not sys.stderr.isatty() or file.isatty()
        progress = tqdm(total=len(photos), desc="predict", unit=" photos", disable=silent)
        write = WRITERS[style](file)
        for source, answer in _answers(classifier, photos):
            write({"file": source.name, **answer})
            counts[_kind(answer)] += 1
            progress.update()
        progress.close()
    rate = len(photos) / (time.perf_counter() - started)
    print(
        f"{len(photos):,} photos: {counts['known']:,} known, {counts['unknown']:,} unknown, "
        f"{counts['error']:,} not readable; {rate:,.0f} photos/s",
        file=sys.stderr,
    )
    return 1 if counts["error"] else 0


def _kind(answer: Answer) -> str:
    if "error" in answer:
        return "error"
    return "known" if answer["known"] else "unknown"


def _answers(classifier: Classifier, photos: list[Source]) -> Iterator[tuple[Source, Answer]]:
    """All answers, in order; as many chunks are worked on at a time as there are cores."""
    answer = functools.partial(_answer, classifier)
    under_way: deque[tuple[list[Source], Future[list[Answer]]]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for chunk in sources.chunks(photos):
                under_way.append((chunk, pool.submit(answer, chunk)))
                if len(under_way) > 2 * cores():
                    done, future = under_way.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in under_way:
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _answer(classifier: Classifier, chunk: list[Source]) -> list[Answer]:
    photos, errors = sources.read_all(chunk)
    answers = predict_photos(classifier, photos)
    return [{"error": errors[i]} if i in errors else answer for i, answer in enumerate(answers)]


@contextlib.contextmanager
def _destination(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there once all of it is."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_table(file: TextIO) -> Callable[[Answer], None]:
    file.write(f"{'SIGN':<44} {'CONFIDENCE':>10}  FILE\n")

    def write(answer: Answer) -> None:
        if "error" in answer:
            sign, confidence = f"error: {answer['error']}", ""
        else:
            sign = answer["name"] if answer["known"] else f"unknown ({answer['name']}?)"
            confidence = f"{100 * answer['confidence']:.1f} %"
        file.write(f"{sign:<44} {confidence:>10}  {answer['file']}\n")

    return write


def _write_csv(file: TextIO) -> Callable[[Answer], None]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    return lambda answer: writer.writerow([answer.get(column) for column in COLUMNS])


def _write_json(file: TextIO) -> Callable[[Answer], None]:
    def write(answer: Answer) -> None:
        file.write(json.dumps(answer, ensure_ascii=False) + "\n")

    return write


WRITERS: dict[str, Callable[[TextIO], Callable[[Answer], None]]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
}

if __name__ == "__main__":
    main()
