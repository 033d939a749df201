"""Files that are whole or not there, and what identifies their content."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; it becomes `target` if the block succeeds."""
    path = target.with_name(f".{target.name}.part")
    try:
        yield path
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


def make_empty(folder: Path) -> None:
    """Make a folder, empty in place of what may be there; OSError if that cannot be removed."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8: all of it, or the file stays as it was."""
    with replaced(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file: all of it, or the file stays as it was."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def md5(path: Path) -> str:
    """The md5 of a file, the name under which DVC's cache keeps it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
