"""Get the photos of data.dvc from their public source: `python -m signs.operations.download`."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from signs.errors import UserError

URL = "https://github.com/james-doran97/CNN_Traffic_Sign_Classification.git"
COMMIT = "f7781ee34f472769d9f7f79d0f5b656e70bd784f"
FOLDER = "traffic_Data"
TRACKED = Path("data.dvc")
TARGET = Path("data/signs")

# Set by git for its hooks; they would point to the surrounding repository.
_GIT_LOCATION = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}
# A connection slower than 1 kB/s for a minute is given up.
_GIT_OPTIONS = ["core.autocrlf=false", "http.lowSpeedLimit=1000", "http.lowSpeedTime=60"]


def recorded_hash(tracked: Path = TRACKED) -> str:
    """The hash that a .dvc file records for its folder; `UserError` if there is none."""
    try:
        return str(yaml.safe_load(tracked.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no hash in {tracked} ({reason}): run in the project's root.") from error


def folder_hash(folder: Path) -> str:
    """The hash that DVC gives a folder: md5 of the list of its files and their md5s."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    listing = [
        {"md5": _md5(file.read_bytes()), "relpath": name}
        for name, file in sorted(files.items())
        if file.is_file()
    ]
    return _md5(json.dumps(listing, sort_keys=True).encode()) + ".dir"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def download(
    url: str = URL, commit: str = COMMIT, target: Path = TARGET, expected: str | None = None
) -> bool:
    """Put the class folders of the source into `target`, all of them or nothing.

    `expected` is the DVC hash of the result, by default the one that data.dvc records.
    Returns False if `target` holds exactly that. Raises `UserError` if it holds something
    else, on a source out of reach or another hash; `OSError` without git or on a full disk.
    """
    expected = expected or recorded_hash()
    if target.exists() or target.is_symlink():
        if (found := folder_hash(target)) == expected:
            return False
        raise UserError(
            f"{target} exists with other content (hash {found}, expected {expected}); "
            "it was left as it is: move it away and run this again."
        )
    print(f"Fetching {FOLDER} of {url} ...", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        source, photos = Path(temporary, "source"), Path(temporary, "photos")
        photos.mkdir()
        _fetch(url, commit, source)
        first = min((source / FOLDER).rglob("0"), key=lambda path: len(path.parts), default=None)
        for folder in first.parent.iterdir() if first else ():
            if folder.is_dir() and folder.name.isdecimal():
                folder.rename(photos / folder.name)
        if (found := folder_hash(photos)) != expected:
            raise UserError(
                f"{FOLDER} of {url} is not what was recorded: expected hash {expected}, "
                f"found {found}; nothing was kept."
            )
        photos.rename(target)
    return True


def _fetch(url: str, commit: str, folder: Path) -> None:
    """Check out `FOLDER` of one commit, without history, or raise `UserError`."""
    environment = {key: value for key, value in os.environ.items() if key not in _GIT_LOCATION}
    environment["GIT_TERMINAL_PROMPT"] = "0"
    git = ["git", "-C", str(folder)] + [part for option in _GIT_OPTIONS for part in ("-c", option)]
    try:
        for command in (
            ["git", "init", "--quiet", str(folder)],
            [*git, "fetch", "--quiet", "--depth=1", url, commit],
            [*git, "checkout", "--quiet", "FETCH_HEAD", "--", FOLDER],
        ):
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"git ended with {error.returncode}"
        raise UserError(
            f"{url} could not be fetched ({reason}); if your team has a DVC remote, "
            "`dvc pull data.dvc` gets the same photos from there."
        ) from error


def main() -> None:
    """Run as a program: no traceback for what the user can put right."""
    try:
        print(f"{TARGET} is " + ("complete." if download() else "already complete."))
    except (UserError, OSError) as error:
        sys.exit(f"ERROR: {error}")
    except KeyboardInterrupt:
        print("\nStopped; nothing half-written was kept.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
