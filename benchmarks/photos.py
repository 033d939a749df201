"""The photos that measurements run on."""

import zipfile
from pathlib import Path

from signs.data.layouts import gtsrb as gtsrb_layout
from signs.errors import UserError
from signs.paths import DATA


def archive() -> Path:
    """GTSRB's archive if it is there, else the synthetic one.

    Raises:
        UserError: there is none of them.
    """
    candidates = (DATA / "gtsrb" / gtsrb_layout.TRAINING, DATA / "synthetic/images.zip")
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise UserError("There is no archive of photos under data/; run `dvc repro synthesize`.")
    return path


def photo_set() -> str:
    """The name of a data set: a real one if it is there.

    Raises:
        UserError: there is none at all.
    """
    name = next((n for n in ("gtsrb", "signs", "synthetic") if (DATA / n).exists()), None)
    if name is None:
        raise UserError("There is no data set under data/; run `dvc repro synthesize`.")
    return name


def of_sides(path: Path, sides: range, count: int) -> list[bytes]:
    """The bytes of up to `count` photos of an archive whose height in pixels is one of `sides`."""
    import cv2
    import numpy as np

    found: list[bytes] = []
    with zipfile.ZipFile(path) as content:
        names = sorted(name for name in content.namelist() if not name.endswith(("/", ".csv")))
        for name in names[:: max(1, len(names) // (20 * count))]:
            photo = content.read(name)
            decoded = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
            if decoded is not None and decoded.shape[0] in sides and len(found) < count:
                found.append(photo)
    return found
