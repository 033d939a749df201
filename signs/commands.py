"""git and DVC as functions."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from signs.errors import UserError


def git(*arguments: str, at: Path = Path(), check: bool = True) -> str:
    """What git prints, without the last line's end.

    Raises:
        UserError: git is missing, or it failed and `check` is set.
    """
    return run("git", *arguments, at=at, check=check).strip()


def dvc(
    *arguments: str, at: Path = Path(), check: bool = True, environment: Mapping[str, str] = {}
) -> str:
    """What DVC prints; `environment` is added to this process's.

    Raises:
        UserError: it failed and `check` is set.
    """
    command = (sys.executable, "-m", "dvc", *arguments)
    return run(*command, at=at, check=check, environment=environment)


def run(
    *command: str, at: Path = Path(), check: bool = True, environment: Mapping[str, str] = {}
) -> str:
    """What a command prints.

    Raises:
        UserError: there is no such command, or it failed and `check` is set.
    """
    # Stages call `python`: it must be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        done = subprocess.run(
            command,
            cwd=at,
            env=os.environ | {"PATH": path} | dict(environment),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not installed.") from error
    if check and done.returncode:
        name = " ".join(command).removeprefix(f"{sys.executable} -m ")
        raise UserError(f"`{name}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def commit_of(revision: str) -> str:
    """The commit of a branch, tag or commit; of origin's branch if there is no local one.

    Raises:
        UserError: there is no such revision.
    """
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
