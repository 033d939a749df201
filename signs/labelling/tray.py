"""Photos that wait for a label, and what was done with them. Each label moves one file."""

import shutil
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from signs import files, progress
from signs.data import images, sources
from signs.errors import UserError
from signs.inference.classifier import Classifier
from signs.inference.predictions import Prediction, predict_photos
from signs.labelling.class_folders import ClassFolders

NO_SIGN = "no sign"  # the folder of photos that show none, beside those that wait
CHUNK = 64  # photos predicted together
HEAD = 32  # bytes that tell a photo from another file
SUFFIX = dict(
    zip(
        images.FORMATS,
        (".png", ".jpg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".gif", ".avif", ".jp2"),
        strict=True,
    )
)


@dataclass(frozen=True)
class Photo:
    """A file, and what the classifier says of it: `{"error": why}` if it cannot be read."""

    path: Path
    prediction: Prediction


@dataclass(frozen=True)
class Step:
    """What was done with a photo."""

    number: int
    said: str
    place: Path | None  # where its file is now; None: where it was, as it was skipped


class StaleError(UserError):
    """Another photo is shown by now, perhaps on a second page."""


class Tray:
    """The photos, the one that is shown, and the steps so far."""

    def __init__(self, folder: Path, photos: Sequence[Photo], classes: ClassFolders) -> None:
        self.folder, self.photos, self.classes = folder, list(photos), classes
        self.waiting = deque(range(len(photos)))
        self.steps: list[Step] = []

    def label(self, number: int, name: str) -> None:
        """Move the shown photo into the folder of its class.

        Raises:
            StaleError: the photo of this number is not shown.
            UserError: no class can have this name.
            OSError: the file cannot be moved.
        """
        self._check(number)
        self._put(number, self.classes.folder_of(name), name)

    def no_sign(self, number: int) -> None:
        """Put the shown photo aside, as it shows no sign; errors as those of `label`."""
        self._check(number)
        self._put(number, self.folder / NO_SIGN, NO_SIGN)

    def skip(self, number: int) -> None:
        """Leave the shown photo where it is; the next start shows it again."""
        self._check(number)
        self._finish(Step(number, "skipped", None))

    def undo(self) -> None:
        """Take the last step back, if there is one; OSError if the file cannot be moved."""
        if not self.steps:
            return
        step = self.steps[-1]
        if step.place:
            photo = self.photos[step.number]
            back = _free(photo.path)
            _move(step.place, back)
            self.photos[step.number] = Photo(back, photo.prediction)
            if not any(step.place.parent.iterdir()):
                step.place.parent.rmdir()
        self.steps.pop()
        self.waiting.appendleft(step.number)

    def count(self, skipped: bool) -> int:
        """How many photos were skipped, or else labelled."""
        return sum((step.place is None) is skipped for step in self.steps)

    def _check(self, number: int) -> None:
        if not self.waiting or self.waiting[0] != number:
            raise StaleError("Another photo is shown by now.")

    def _put(self, number: int, folder: Path, said: str) -> None:
        source = self.photos[number].path
        folder.mkdir(parents=True, exist_ok=True)
        place = _free(folder / _name(source))
        _move(source, place)
        self._finish(Step(number, said, place))

    def _finish(self, step: Step) -> None:
        self.waiting.popleft()
        self.steps.append(step)


def find(folder: Path) -> list[Path]:
    """The photos below a folder, by suffix or, as the service keeps them, by their first bytes.

    Raises:
        UserError: there are none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder.")
    found = [
        path
        for path in folder.rglob("*")
        if not any(
            part.startswith(".") or part == NO_SIGN for part in path.relative_to(folder).parts
        )
        and path.is_file()
        and (path.suffix.lower() in images.SUFFIXES or _kind(path))
    ]
    if not found:
        raise UserError(f"{folder} holds no photos that wait for a label.")
    return sorted(found, key=lambda path: sources.natural(str(path)))


def by_doubt(paths: Sequence[Path], classifier: Classifier) -> list[Photo]:
    """The photos with their predictions: unknown ones first, then those of low confidence.

    Those that cannot be read come last.
    """
    photos: list[Photo] = []
    with progress.bar(len(paths), "predict", " photos") as bar:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            photos += map(Photo, chunk, predict_photos(classifier, chunk))
            bar.update(len(chunk))
    return sorted(photos, key=_doubt)


def _doubt(photo: Photo) -> tuple[bool, bool, float]:
    found = photo.prediction
    return "error" in found, found.get("known", False), found.get("confidence", 0.0)


def _kind(path: Path) -> str:
    """The format that the first bytes say; "" for what is no photo."""
    try:
        with path.open("rb") as file:
            known = images.FIRST_BYTES.match(file.read(HEAD))
    except OSError:
        return ""
    return images.FORMATS[(known.lastindex or 1) - 1] if known else ""


def _name(path: Path) -> str:
    """What a labelled file is called: with a suffix, and not hidden, so that layouts find it."""
    name = path.name.lstrip(".-") or "photo"
    known = path.suffix.lower() in images.SUFFIXES
    return name if known else name + SUFFIX.get(_kind(path), "")


def _move(source: Path, place: Path) -> None:
    """Move a file, also to another disk: all of it, or it stays where it was."""
    try:
        source.rename(place)
    except OSError:
        with files.replaced(place) as part:
            shutil.copy2(source, part)
        source.unlink()


def _free(path: Path) -> Path:
    """The path, or one with a number in its name if there is such a file."""
    number, free = 1, path
    while free.exists() or free.is_symlink():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
