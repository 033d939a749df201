"""The DVC experiment behind a row of a table: found, or run."""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from signs import pipeline
from signs.commands import git
from signs.errors import UserError

SETTINGS = ("params.yaml", "dvc.yaml", "data.dvc", "gtsrb.dvc")


def only_table(description: str | None) -> bool:
    """Whether the command line asks to run nothing."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="run nothing, write the table only")
    return bool(parser.parse_args().table)


def find(title: str, settings: dict[str, Any], stage: str, run: bool) -> str | None:
    """The git reference of the experiment with this title and these settings.

    It is one of the present code if there is one, else the newest, else None.

    Args:
        title: of any characters; the experiment's name is made of it.
        settings: dotted keys of params.yaml and their values.
        stage: the last stage that it runs. Code of later stages does not matter.
        run: run the experiment if there is none of the present code.

    Raises:
        UserError: the run failed, or code is not committed, so that nobody could say what ran.
    """
    name = re.sub(r"[^a-z0-9]+", "-", title.lower())
    # The newest code of the present branch counts, whatever other branches have.
    code = [*SETTINGS, *map(str, pipeline.code(*_until(stage)))]
    references = _references(name, settings)
    current = next((found for found in references if not _changed(found, code)), None)
    if current is None and run:
        if changes := git("status", "--porcelain", "--", *code):
            raise UserError(f"Commit these changes first, so that the run has a commit:\n{changes}")
        _run(name, settings, stage)
        references = _references(name, settings)
    return current or next(iter(references), None)


def read(reference: str, path: str) -> str:
    """A file of an experiment."""
    return git("show", f"{reference}:{path}")


def commit(reference: str) -> str:
    """The short commit that an experiment started from."""
    return git("rev-parse", "--short", f"{reference}^")


def row(title: str, table: Path) -> str:
    """The row that a table has for this title so far, made from another clone's experiments."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    start = f"| {title} |"
    return next((line for line in lines if line.startswith(start)), f"{start} not run yet |")


def _until(stage: str) -> tuple[str, ...]:
    return pipeline.STAGES[: pipeline.STAGES.index(stage) + 1]


def _references(name: str, settings: dict[str, Any]) -> list[str]:
    """Newest first."""
    found = git("for-each-ref", "--sort=-committerdate", "--format=%(refname)", "refs/exps").split()
    return [r for r in found if r.rpartition("/")[2] == name and _has(r, settings)]


def _has(reference: str, settings: dict[str, Any]) -> bool:
    used = yaml.safe_load(read(reference, "params.yaml"))
    return all(_get(used, key) == value for key, value in settings.items())


def _get(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _changed(reference: str, code: list[str]) -> str:
    return git("diff", "--name-only", f"{reference}^", "HEAD", "--", *code)


def _run(name: str, settings: dict[str, Any], stage: str) -> None:
    changes = [part for key, value in settings.items() for part in ("-S", f"{key}={value}")]
    # In a copy of the tree, so that the working tree and its models stay as they are.
    command = ["dvc", "exp", "run", "--temp", "--name", name, *changes, stage]
    print(f"\n{' '.join(command)}", flush=True)
    if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
        raise UserError(f"The experiment {name} failed; see above. Run this again to go on there.")
