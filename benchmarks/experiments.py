"""DVC experiments that lists of settings ask for: find them, or run them."""

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from signs.errors import UserError

# What an experiment is made of; another README does not make it stale.
CODE = ("signs", "stages", "requirements", "params.yaml", "dvc.yaml", "data.dvc", "gtsrb.dvc")


def only_table(about: str | None) -> bool:
    """Whether the command line asks to run nothing."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="run nothing")
    return bool(parser.parse_args().table)


def find(title: str, settings: dict[str, Any], stage: str, run: bool) -> str | None:
    """The git reference of the experiment with this title and these settings.

    One of the present code if there is one, else the newest.

    Args:
        title: of any characters; the experiment's name is made of it.
        settings: dotted keys of params.yaml and their values.
        stage: the last stage that it runs.
        run: run it if there is none of the present code.

    Raises:
        UserError: it failed, or code is not committed, so that nobody could say what ran.
    """
    name = re.sub(r"[^a-z0-9]+", "-", title.lower())
    found = _references(name, settings)
    current = next(filter(_is_current, found), None)
    if current is None and run:
        if _git("status", "--porcelain", "--", *CODE):
            raise UserError(f"Commit what has changed in {', '.join(CODE)} first.")
        _run(name, settings, stage)
        found = _references(name, settings)
    return current or next(iter(found), None)


def read(reference: str, path: str) -> str:
    """A file of an experiment."""
    return _git("show", f"{reference}:{path}")


def commit(reference: str) -> str:
    """What an experiment started from."""
    return _git("rev-parse", "--short", f"{reference}^").strip()


def row(title: str, table: Path) -> str:
    """What a table says so far of this title: another clone may hold the experiments behind it."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    start = f"| {title} |"
    return next((line for line in lines if line.startswith(start)), f"{start} not run yet |")


def _references(name: str, settings: dict[str, Any]) -> list[str]:
    """Newest first."""
    found = _git("for-each-ref", "--sort=-committerdate", "--format=%(refname)", "refs/exps")
    return [r for r in found.split() if r.rpartition("/")[2] == name and _has(r, settings)]


def _has(reference: str, settings: dict[str, Any]) -> bool:
    used = yaml.safe_load(read(reference, "params.yaml"))
    for key, value in settings.items():
        found = used
        for part in key.split("."):
            found = found.get(part, {})
        if found != value:
            return False
    return True


def _is_current(reference: str) -> bool:
    command = ["git", "diff", "--quiet", f"{reference}^", "HEAD", "--", *CODE]
    return subprocess.run(command, check=False).returncode == 0


def _run(name: str, settings: dict[str, Any], stage: str) -> None:
    changes = [part for key, value in settings.items() for part in ("-S", f"{key}={value}")]
    # A copy of the tree: the working tree, and its models, stay as they are.
    command = ["dvc", "exp", "run", "--temp", "--name", name, *changes, stage]
    print("\n" + " ".join(command), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"The experiment {name} failed; see above. Run this again to go on there.")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout
