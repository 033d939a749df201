"""The library that stages and service share."""

import os

# OpenCV reads both once, when it is imported, which several modules here do.
# More pixels are refused by a file's header, before they are decoded.
MAX_PIXELS = 50_000_000
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
# What it prints about damaged files is said better by images.ImageError.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
