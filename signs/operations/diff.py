"""What the present run changed: settings, metrics and pictures, beside another revision.

    make changes                         against the branch main
    make changes ARGS='--base v1.2'      against a tag, branch or commit

Writes changes.md, fit for a comment on a pull request, and changes.html, which has the pictures.
"""

import argparse
import html
import json
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from signs.errors import UserError, run_stage
from signs.inference import revisions
from signs.reporting import report

TEXT, PAGE = Path("changes.md"), Path("changes.html")
METRICS = Path("metrics")
HEAD = ["name", "before", "now", "change"]

Rows = list[tuple[str, str, str, str]]


def changes() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="What the present run changed.")
    parser.add_argument("--base", default="main", metavar="REVISION", help="default: main")
    base = parser.parse_args().base
    commit = revisions.commit_of(base)
    tables = {"Metrics": _rows("metrics", commit), "Settings": _rows("params", commit)}
    title = f"Changes since {base} ({commit[:10]})"
    TEXT.write_text(_markdown(title, tables), encoding="utf-8")
    body = f"<h1>{html.escape(title)}</h1>\n"
    for name, rows in tables.items():
        body += f"<section>\n<h2>{name}</h2>\n"
        body += report.html_table(name, HEAD, rows, {1, 2, 3}) if rows else "<p>The same.</p>\n"
        body += "</section>\n"
    body += f"<section>\n<h2>Pictures</h2>\n{_pictures(commit)}</section>\n"
    page = string.Template(report.TEMPLATE.read_text(encoding="utf-8"))
    PAGE.write_text(page.substitute(title=html.escape(title), body=body), encoding="utf-8")
    print(TEXT.read_text(encoding="utf-8"))
    print(f"With pictures: {PAGE}")


def _rows(kind: str, commit: str) -> Rows:
    """What `dvc metrics diff` or `dvc params diff` finds, without the names of the files."""
    command = [sys.executable, "-m", "dvc", kind, "diff", "--json", commit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`dvc {kind} diff {commit[:10]}` failed: {done.stderr.strip()}")
    found = json.loads(done.stdout or "{}")
    return sorted(
        (name, _cell(change.get("old")), _cell(change.get("new")), _cell(change.get("diff"), "+"))
        for file in found.values()
        for name, change in file.items()
    )


def _cell(value: Any, sign: str = "") -> str:
    if value is None:
        return report.ABSENT
    return f"{value:{sign}.4f}" if isinstance(value, float) else str(value)


def _markdown(title: str, tables: dict[str, Rows]) -> str:
    lines = [f"### {title}"]
    for name, rows in tables.items():
        if rows:
            lines += ["", f"| {name.lower()} | before | now | change |", "|---|---:|---:|---:|"]
            lines += [
                "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
            ]
        else:
            lines += ["", f"{name}: the same."]
    return "\n".join(lines) + "\n"


def _pictures(commit: str) -> str:
    """Those that differ, before and now."""
    body = ""
    files = sorted(path for path in METRICS.rglob("*") if path.suffix in report.KINDS)
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            command = ["git", "show", f"{commit}:{file.as_posix()}"]
            before = subprocess.run(command, capture_output=True, check=False).stdout
            if before == file.read_bytes():
                continue
            name = file.relative_to(METRICS).as_posix()
            old = Path(folder) / f"before{file.suffix}"
            old.write_bytes(before)
            body += f"<h3>{name}</h3>\n"
            if before:
                body += report.html_picture(old, f"{name} before", "before")
            body += report.html_picture(file, f"{name} now", "now")
    return body or "<p>The same.</p>\n"


if __name__ == "__main__":
    run_stage(changes)
