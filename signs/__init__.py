"""The library that stages and service share; `from signs import Classifier` reads photos."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from signs.inference.classifier import Classifier as Classifier

# OpenCV reads both once, when it is imported, which several modules here do.
# More pixels are refused by a file's header, before they are decoded.
MAX_PIXELS = 50_000_000
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
# What it prints about damaged files is said better by images.ImageError.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


def __getattr__(name: str) -> Any:
    """`Classifier`, once it is asked for: the stages import this file, but not all need that."""
    if name == "Classifier":
        return importlib.import_module("signs.inference.classifier").Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
