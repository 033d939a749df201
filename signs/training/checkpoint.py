"""The state of an unfinished training, so that a killed one goes on where it was.

DVC deletes a stage's outputs before it runs the stage, so the state has a folder of its own. The
train stage names it by its fingerprint: other data, parameters or code never use it.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from signs.paths import TRAIN_METRICS

ROOT = Path(".resume")
MODEL, METRICS, PROGRESS = "model.keras", "metrics", "progress.json"


@dataclass
class Progress:
    """What a training remembers from epoch to epoch."""

    epoch: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0


def save(state: Path, model: keras.Model, progress: Progress) -> None:
    """Keep all that the next epoch needs; the state before goes once this one is whole."""
    unfinished = state / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.save(unfinished / MODEL)
    shutil.copytree(TRAIN_METRICS, unfinished / METRICS)
    (unfinished / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    whole = unfinished.replace(state / f"{progress.epoch:05d}")
    # There are several if the clean-up of an earlier epoch was cut short.
    for old in set(state.glob("[0-9]*")) - {whole}:
        shutil.rmtree(old)


def restore(state: Path) -> tuple[keras.Model | None, Progress]:
    """Model and progress of an unfinished training; brings its metrics back, too."""
    newest = latest(state)
    if newest is None:
        return None, Progress()
    shutil.rmtree(TRAIN_METRICS, ignore_errors=True)
    shutil.copytree(newest / METRICS, TRAIN_METRICS)
    progress = Progress(**json.loads((newest / PROGRESS).read_text(encoding="utf-8")))
    return keras.models.load_model(newest / MODEL), progress


def latest(state: Path) -> Path | None:
    """The folder of the newest whole state, if there is one."""
    return max(state.glob("[0-9]*"), default=None)


def discard(state: Path) -> None:
    """Forget a training that has ended; cut short, this leaves nothing that looks like a state."""
    ended = state.with_suffix(".ended")
    shutil.rmtree(ended, ignore_errors=True)
    state.replace(ended)
    shutil.rmtree(ended)
