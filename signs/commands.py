"""git and DVC as functions."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from signs.errors import UserError

# Set by git for its hooks; they would lead a command in another folder to the hook's repository.
_GIT_LOCATION = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}


def git(*arguments: str, at: Path = Path(), check: bool = True) -> str:
    """What git prints, stripped; errors as of `run`. It never asks for a password."""
    environment = {"GIT_TERMINAL_PROMPT": "0"}
    return run("git", *arguments, at=at, check=check, environment=environment).strip()


def dvc(*arguments: str, **options: Any) -> str:
    """What DVC prints; options and errors as of `run`."""
    return run(sys.executable, "-m", "dvc", *arguments, **options)


def run(
    *command: str,
    at: Path = Path(),
    check: bool = True,
    show: bool = False,
    environment: Mapping[str, str] = {},
) -> str:
    """What a command prints that runs in a folder, with additions to this process's environment.

    With `show` it prints for itself, as suits long work, and nothing is returned. `UserError` if
    there is no such command, or if it failed and `check` is set.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in _GIT_LOCATION}
    # Stages call `python`: it must be this one.
    inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited |= environment
    try:
        done = subprocess.run(command, cwd=at, env=inherited, capture_output=not show, text=True)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not installed.") from error
    if check and done.returncode:
        name = " ".join(command).removeprefix(f"{sys.executable} -m ")
        where = "" if at == Path() else f" in {at}"
        said = (done.stderr or done.stdout or "see above").strip()
        raise UserError(f"`{name}` failed{where}: {said}")
    return done.stdout or ""


def commit_of(revision: str) -> str:
    """The commit of a branch, tag or commit, here or else at origin; `UserError` if unknown."""
    for name in (revision, f"origin/{revision}"):
        commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False)
        if commit:
            return commit
    raise UserError(f"git knows no {revision!r}, here or at origin; `git fetch` may bring it.")


def deployed_commit() -> str | None:
    """The commit that `make promote` last marked as in production; None if there is none."""
    pattern = "classifier#production#*"
    tags = git("tag", "--list", pattern, "--sort=-version:refname", check=False).split()
    return commit_of(tags[0]) if tags else None
