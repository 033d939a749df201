"""From the bytes of a photo to the array that a network sees.

The only image path: training, evaluation, batch prediction and service all call
`decode` and `prepare`, so a network never meets an image prepared in another way.
"""

import re

import cv2
import numpy as np
import numpy.typing as npt

from signs import MAX_PIXELS
from signs.errors import UserError
from signs.params import ImageSettings

MIN_SIDE = 8
TOO_MANY = f"more than {MAX_PIXELS // 10**6} million pixels"
FORMATS = ("PNG", "JPEG", "BMP", "WebP", "PGM", "PPM")
FIRST_BYTES = re.compile(rb"(\x89PNG\r\n\x1a\n)|(\xff\xd8\xff)|(BM)|(RIFF)|(P5)|(P6)")
# A truncated PNG or JPEG is decoded to its end by OpenCV, with grey in place of what is
# missing; only the closing mark tells. Some cameras append a few bytes after it.
CLOSING_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
TRAILING_BYTES = 1024

Image = npt.NDArray[np.uint8]
# Left, top, right and bottom in shares of width and height, 0 to 1.
Region = tuple[float, float, float, float]


class ImageError(UserError):
    """These bytes are no image that can be used; the text says why."""


def decode(content: bytes) -> Image:
    """Decode a photo: RGB, uint8 (H, W, 3), rotated as its EXIF entry says.

    Grey, palette, alpha, 16-bit and CMYK files all become 8-bit colour.

    Raises:
        ImageError: empty, no image, truncated, too many pixels or too small.
    """
    if not content:
        raise ImageError("the file is empty")
    known = FIRST_BYTES.match(content)
    if known is None:
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS)})")
    kind = FORMATS[known.lastindex - 1]  # type: ignore[operator]  # each branch is a group
    mark = CLOSING_MARKS.get(kind)
    if mark and content.rfind(mark) < len(content) - TRAILING_BYTES:
        raise ImageError(f"the {kind} file is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if "PIXELS" in str(error):
            raise ImageError(TOO_MANY) from error
        image = None
    if image is None:
        raise ImageError(f"the {kind} file is damaged")
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:  # OpenCV was imported before this package set its limit
        raise ImageError(TOO_MANY)
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{width}x{height} pixels is too small, {MIN_SIDE} a side is the least")
    return image  # type: ignore[return-value]


def prepare(
    image: Image,
    settings: ImageSettings,
    region: Region | None = None,
) -> Image:
    """Crop, resize and even out the contrast of a decoded photo.

    Args:
        image: RGB, uint8 (H, W, 3).
        settings: what the network was, or will be, trained with.
        region: where the sign is, as (left, top, right, bottom) in shares of width
            and height, 0 to 1; None if the photo shows just the sign.

    Returns:
        uint8 (size, size, 3) RGB, or (size, size, 1) grey.
    """
    if region is not None:
        image = _crop(image, region, settings.margin)
    side = settings.size
    shrinks = image.shape[0] > side or image.shape[1] > side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image = cv2.resize(image, (side, side), interpolation=interpolation)  # type: ignore[assignment]
    if settings.color == "grey":
        grey = _even_out(
            np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), settings.contrast
        )
        return grey[:, :, None]
    if settings.contrast != "none":
        luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), np.uint8)
        luma[:, :, 0] = _even_out(luma[:, :, 0], settings.contrast)
        return cv2.cvtColor(luma, cv2.COLOR_YCrCb2RGB)  # type: ignore[return-value]
    return image


def thumbnail(image: Image, side: int = 16) -> Image:
    """A small grey version of a decoded photo, uint8 (side, side), to compare photos by."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _crop(image: Image, region: Region, margin: float) -> Image:
    height, width = image.shape[:2]
    left, top, right, bottom = region
    across, down = margin * (right - left), margin * (bottom - top)
    x1 = max(0, round((left - across) * width))
    y1 = max(0, round((top - down) * height))
    x2 = min(width, round((right + across) * width))
    y2 = min(height, round((bottom + down) * height))
    if x2 - x1 < 2 or y2 - y1 < 2:
        raise ImageError(f"the sign's region {region} lies outside of the image")
    return image[y1:y2, x1:x2]


def _even_out(luma: Image, contrast: str) -> Image:
    if contrast == "equalize":
        return cv2.equalizeHist(luma)  # type: ignore[return-value]
    if contrast == "clahe":
        return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(4, 4)).apply(luma)  # type: ignore[return-value]
    return luma
