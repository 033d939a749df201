"""State of an unfinished training, so that a killed one goes on where it was.

DVC deletes a stage's outputs before it runs the stage, so the state lies in an untracked
folder beside them. Its name is a hash of all that determines the training: a state of other
data, parameters or code is never picked up.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(".resume")


def folder(*determinants: object, code: list[Path]) -> Path:
    """Where the state of a training with these determinants and this code belongs."""
    digest = hashlib.sha256(json.dumps(determinants, sort_keys=True).encode())
    for path in sorted(code):
        digest.update(path.read_bytes())
    return ROOT / digest.hexdigest()[:16]


def save(place: Path, epoch: int, write: Callable[[Path], None]) -> None:
    """Keep the state after `epoch` finished epochs; the one before goes once this is whole.

    Args:
        place: as `folder` gives it.
        epoch: number of finished epochs.
        write: writes the state's files into the folder that it is given.
    """
    unfinished = place / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write(unfinished)
    before = finished(place)
    unfinished.replace(place / f"{epoch:05d}")
    for old in before:
        shutil.rmtree(old)


def discard(place: Path) -> None:
    """Forget a training that has ended; cut short, this leaves nothing that looks like a state."""
    ended = place.with_suffix(".ended")
    shutil.rmtree(ended, ignore_errors=True)
    place.replace(ended)
    shutil.rmtree(ended)


def finished(place: Path) -> list[Path]:
    """The whole states in `place`, oldest first (more than one if a clean-up was cut short)."""
    return sorted(path for path in place.glob("[0-9]*") if path.is_dir())


def latest(place: Path) -> tuple[int, Path] | None:
    """Number of finished epochs and folder of the newest state, if there is one."""
    states = finished(place)
    return (int(states[-1].name), states[-1]) if states else None
