"""The command line: names the signs on files, folders and archives of photos.

    signs predict photo.jpg folder archive.zip
    signs predict --output answers.csv folder
    signs info

Answers are those of the HTTP API: same classifier, same code.
"""

import argparse
import contextlib
import csv
import functools
import json
import os
import re
import sys
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from signs import images
from signs.answers import Answer, answer_photos
from signs.archives import Archive
from signs.classifier import FOLDER, Classifier
from signs.errors import UserError
from signs.parallel import cores

# A chunk is answered at once; it ends at so many photos or bytes, whichever comes first.
CHUNK_PHOTOS = 64
CHUNK_BYTES = 32 * 2**20
COLUMNS = ("file", "prediction", "name", "confidence", "known", "model", "error")
SUFFIX_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "table"}
ROOT = Path(__file__).resolve().parents[1]


class PhotoError(Exception):
    """A photo cannot be had; the text says why."""


@dataclass(frozen=True)
class Source:
    """A photo that is yet to be read.

    Attributes:
        name: what the answer calls it.
        size: bytes that it is said to have.
        read: gives its bytes.
    """

    name: str
    size: int
    read: Callable[[], bytes]


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
    predict.add_argument("--output", type=Path, metavar="FILE", help="instead of printing them")
    info = commands.add_parser("info", help="say which classifier answers")
    info.add_argument("--json", action="store_true", help="all that classifier.json holds")
    for command, run in ((predict, _predict), (info, _info)):
        command.add_argument("--classifier", type=Path, default=ROOT / FOLDER, metavar="FOLDER")
        command.set_defaults(run=run)
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
    about = Classifier(arguments.classifier).about
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


def _predict(arguments: argparse.Namespace) -> int:
    output: Path | None = arguments.output
    style = arguments.format or (SUFFIX_FORMATS.get(output.suffix.lower()) if output else None)
    style = style or ("table" if sys.stdout.isatty() and not output else "csv")
    classifier = Classifier(arguments.classifier, threads=1)
    sources = [source for path in arguments.paths for source in _sources(path)]
    counts: Counter[str] = Counter()
    started = time.perf_counter()
    with _destination(output) as file:
        # Beside answers on the same terminal a bar would be torn apart.
        silent = not sys.stderr.isatty() or file.isatty()
        progress = tqdm(total=len(sources), desc="predict", unit=" photos", disable=silent)
        write = WRITERS[style](file)
        for source, answer in _answers(classifier, sources):
            write({"file": source.name, **answer})
            counts[_kind(answer)] += 1
            progress.update()
        progress.close()
    rate = len(sources) / (time.perf_counter() - started)
    print(
        f"{len(sources):,} photos: {counts['known']:,} known, {counts['unknown']:,} unknown, "
        f"{counts['error']:,} not readable; {rate:,.0f} photos/s",
        file=sys.stderr,
    )
    return 1 if counts["error"] else 0


def _kind(answer: Answer) -> str:
    if "error" in answer:
        return "error"
    return "known" if answer["known"] else "unknown"


def _answers(classifier: Classifier, sources: list[Source]) -> Iterator[tuple[Source, Answer]]:
    """All answers, in order; as many chunks are worked on at a time as there are cores."""
    answer = functools.partial(_answer, classifier)
    under_way: deque[tuple[list[Source], Future[list[Answer]]]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for chunk in _chunks(sources):
                under_way.append((chunk, pool.submit(answer, chunk)))
                if len(under_way) > 2 * cores():
                    done, future = under_way.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in under_way:
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _chunks(sources: list[Source]) -> Iterator[list[Source]]:
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


def _answer(classifier: Classifier, chunk: list[Source]) -> list[Answer]:
    photos: list[bytes] = []
    errors: dict[int, Answer] = {}
    for place, source in enumerate(chunk):
        content = b""
        try:
            content = source.read()
        except (PhotoError, zipfile.BadZipFile) as error:
            errors[place] = {"error": str(error)}
        except OSError as error:
            errors[place] = {"error": error.strerror or str(error)}
        photos.append(content)
    answers = answer_photos(classifier, photos)
    return [errors.get(place, answer) for place, answer in enumerate(answers)]


def _sources(path: str) -> Iterator[Source]:
    """The photos at a path; those of a folder in natural order.

    Raises:
        UserError: there are none.
    """
    place = Path(path)
    if path == "-":
        yield Source("-", 0, _read_input)
    elif place.is_dir():
        shown = (file for file in place.rglob("*") if file.is_file() and _shows(file))
        found = sorted(shown, key=lambda file: _natural(str(file)))
        if not found:
            raise UserError(f"{path} holds neither photos ({_suffixes()}) nor zip archives.")
        for file in found:
            yield from _archived(file) if _is_archive(file) else [_file(file)]
    elif not place.exists():
        raise UserError(f"{path} does not exist.")
    else:
        yield from _archived(place) if _is_archive(place) else [_file(place)]


def _shows(file: Path) -> bool:
    return _is_photo(file.name) or (_is_archive(file) and file.name[0] != ".")


def _is_photo(name: str) -> bool:
    # Hidden files, such as a Mac puts beside each photo of an archive, are none.
    hidden = name.rpartition("/")[2].startswith(".")
    return not hidden and name.lower().endswith(tuple(images.SUFFIXES))


def _is_archive(file: Path) -> bool:
    return file.suffix.lower() == ".zip"


def _suffixes() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in images.SUFFIXES))


def _natural(name: str) -> list[str | int]:
    """Sort key: 2.png comes before 10.png."""
    # Text and numbers take turns, so that like is compared with like.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _file(path: Path) -> Source:
    size = path.stat().st_size
    return Source(str(path), min(size, images.MAX_BYTES), lambda: _limited(size, path.read_bytes))


def _archived(path: Path) -> Iterator[Source]:
    try:
        archive = Archive(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a zip archive: {error}") from error
    sizes = archive.sizes()
    members = list(filter(_is_photo, sizes))
    if not members:
        raise UserError(f"{path} holds no photos ({_suffixes()}).")
    for member in members:
        size = sizes[member]
        read = functools.partial(_limited, size, functools.partial(archive.read, member))
        yield Source(f"{path}/{member}", min(size, images.MAX_BYTES), read)


def _limited(size: int, read: Callable[[], bytes]) -> bytes:
    if size > images.MAX_BYTES:
        raise PhotoError(f"more than {images.MAX_BYTES // 2**20} MB")
    return read()


def _read_input() -> bytes:
    content = sys.stdin.buffer.read(images.MAX_BYTES + 1)
    return _limited(len(content), lambda: content)


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
