"""Fetch the photos of data/signs, which data.dvc records, from their public source.

    signs download

A git repository has them. Keeps all of them or, if they are not those that were recorded, none.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import yaml

from signs import files, paths
from signs.commands import git
from signs.errors import UserError

URL = "https://github.com/james-doran97/CNN_Traffic_Sign_Classification.git"
COMMIT = "f7781ee34f472769d9f7f79d0f5b656e70bd784f"
FOLDER = "traffic_Data"
TRACKED = Path("data.dvc")
TARGET = paths.DATA / "signs"

# A connection slower than 1 kB/s for a minute is given up.
_OPTIONS = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60"]
_OPTIONS += ["-c", "core.autocrlf=false"]


def run(arguments: argparse.Namespace) -> int:
    """Download, and say whether that was needed."""
    print(f"{TARGET} is " + ("complete." if download() else "already complete."))
    return 0


def recorded_hash(tracked: Path = TRACKED) -> str:
    """The hash that a .dvc file records for its folder; `UserError` if there is none."""
    try:
        return str(yaml.safe_load(tracked.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no hash in {tracked} ({reason}): run in the project's root.") from error


def folder_hash(folder: Path) -> str:
    """The hash that DVC gives a folder: md5 of the list of its files and their md5s."""
    names = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    listing = [{"md5": files.md5(names[name]), "relpath": name} for name in sorted(names)]
    content = json.dumps(listing, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"


def download(
    url: str = URL, commit: str = COMMIT, target: Path = TARGET, expected: str | None = None
) -> bool:
    """Put the class folders of a git repository's commit into `target`, all of them or nothing.

    Returns False if `target` had exactly that before, by its DVC hash: `expected`, or the one that
    data.dvc records. `UserError` if `target` has other content, or the source is unreachable or not
    as recorded.
    """
    expected = expected or recorded_hash()
    if target.exists() or target.is_symlink():
        if (actual := folder_hash(target)) == expected:
            return False
        raise UserError(
            f"{target} exists with other content (hash {actual}, expected {expected}); "
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
        if (actual := folder_hash(photos)) != expected:
            raise UserError(
                f"{FOLDER} of {url} is not what was recorded: expected hash {expected}, "
                f"got {actual}; nothing was kept."
            )
        photos.rename(target)
    return True


def _fetch(url: str, commit: str, folder: Path) -> None:
    """Check out `FOLDER` of one commit, without history."""
    try:
        git("init", "--quiet", str(folder))
        git(*_OPTIONS, "fetch", "--quiet", "--depth=1", url, commit, at=folder)
        git(*_OPTIONS, "checkout", "--quiet", "FETCH_HEAD", "--", FOLDER, at=folder)
    except UserError as error:
        raise UserError(
            f"{url} could not be fetched ({' '.join(str(error).split())}); if your team has a "
            "DVC remote, `dvc pull data.dvc` gets the same photos from there."
        ) from error
