"""Compare the present metrics, settings and pictures with those of another revision.

    signs diff                     with the branch main
    signs diff --base v1.2         with a tag, branch or commit

Writes diff.md, for a comment on a pull request, and diff.html, which has the pictures, too.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dvc.api import DVCFileSystem

from signs import files, paths
from signs.commands import commit_of, dvc
from signs.reporting import pages

TEXT, PAGE = Path("diff.md"), Path("diff.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--base", default="main", metavar="REVISION", help="default: main")


def run(arguments: argparse.Namespace) -> int:
    """Write both files; `UserError` if there is no such revision."""
    commit = commit_of(arguments.base)[:10]
    tables = {
        "Metrics": dvc("metrics", "diff", "--md", "--precision", "4", commit),
        "Settings": dvc("params", "diff", "--md", "--no-path", commit),
    }
    title = f"Changes since {arguments.base} ({commit})"
    rows = {name: _rows(table) for name, table in tables.items()}
    text = pages.render("diff.md", title=title, tables=tables, rows=rows)
    files.write_text(TEXT, text)
    with tempfile.TemporaryDirectory() as folder:
        pictures = list(_pictures(commit, Path(folder)))
        page = pages.render("diff.html", title=title, tables=rows, pictures=pictures)
    files.write_text(PAGE, page)
    print(f"{text}\nWith pictures: {PAGE}")
    return 0


def _rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table: its head first; empty if there is no row below it."""
    lines = table.strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return rows[:1] + rows[2:] if len(rows) > 2 else []


def _pictures(commit: str, folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Of each picture that differs its name, the file before, in `folder`, and the file now.

    Not from `dvc plots diff`, whose page loads scripts from another host.
    """
    past = DVCFileSystem(rev=commit)
    earlier = set(past.find(paths.METRICS.as_posix()))
    names = earlier | {file.as_posix() for file in paths.METRICS.rglob("*")}
    for name in sorted(name for name in names if Path(name).suffix in pages.PICTURE_TYPES):
        before, now = folder / name, Path(name)
        if name in earlier:
            before.parent.mkdir(parents=True, exist_ok=True)
            past.get_file(name, str(before))
        if not (before.exists() and now.exists() and files.md5(before) == files.md5(now)):
            yield now.relative_to(paths.METRICS).as_posix(), before, now
