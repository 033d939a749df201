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
SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
SUFFIXES |= {".avif", ".jp2", ".heic", ".heif"}
MAX_BYTES = 20 * 2**20  # of a file that somebody sends or names; more is no photo of a sign
FORMATS = ("PNG", "JPEG", "BMP", "WebP", "PGM", "PPM", "TIFF", "GIF", "AVIF", "JPEG 2000")
FIRST_BYTES = re.compile(
    rb"(\x89PNG\r\n\x1a\n)|(\xff\xd8\xff)|(BM)|(RIFF)|(P5)|(P6)|(II\*\0|MM\0\*)|(GIF8[79]a)"
    rb"|(....ftypavi[fs])|(\0\0\0\x0cjP  \r\n\x87\n)",
    re.DOTALL,
)
HEIC = re.compile(rb"....ftyp(heic|heix|hevc|heim|mif1|msf1)", re.DOTALL)
MAX_PARTS = 100_000  # segments or chunks in a file; walking through more would keep a worker busy
# JPEG's markers, but not a zero-stuffed byte (00), a restart (D0 to D7) or a fill byte (FF).
JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
JPEG_START_OR_END = re.compile(rb"\xff[\xd8\xd9]")
JPEG_START, JPEG_END = 0xD8, 0xD9
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

Image = npt.NDArray[np.uint8]
# Where the sign is: left, top, right and bottom in shares of width and height, 0 to 1.
Region = tuple[float, float, float, float]
REGION = ["left", "top", "right", "bottom"]  # its columns in tables
Box = tuple[float, float, float, float]  # the same in pixels


class ImageError(UserError):
    """These bytes are no image that can be used; the text says why."""


def decode(content: bytes) -> Image:
    """Decode a photo: RGB, uint8 (H, W, 3), rotated as its EXIF entry says.

    Grey, palette, alpha, 16-bit and CMYK files all become 8-bit colour. What is empty, no image,
    truncated, too large or too small raises `ImageError`. What follows the photo in the file, such
    as the film of a motion photo, is left alone, and so are all but an animation's first frame.
    """
    if not content:
        raise ImageError("the file is empty")
    known = FIRST_BYTES.match(content)
    if HEIC.match(content):
        raise ImageError("HEIC is not read: save the photo as JPEG")
    if known is None:
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS)})")
    kind = FORMATS[known.lastindex - 1]  # type: ignore[operator]  # each branch is a group
    # OpenCV decodes a truncated PNG or JPEG to its end, with grey in place of what is missing.
    has_end = {"JPEG": _has_jpeg_end, "PNG": _has_png_end}.get(kind)
    if has_end and not has_end(content):
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


def prepare(image: Image, settings: ImageSettings, region: Region | None = None) -> Image:
    """Crop and resize a decoded photo (H, W, 3), and equalize its contrast.

    Gives uint8 (size, size, 3) RGB, or (size, size, 1) grey. Without a region the photo shows
    just the sign; `ImageError` if the region lies outside of the photo.
    """
    equalized: Image = equalize(crop_and_resize(image, settings, region)[None], settings)[0]
    return equalized


def crop_and_resize(image: Image, settings: ImageSettings, region: Region | None = None) -> Image:
    """The first half of `prepare`: crop and resize to RGB, uint8 (size, size, 3).

    docs/exports.md describes it to the pixel, for those who do it without OpenCV.
    """
    image = crop(image, region, settings.margin)
    side = settings.size
    # OpenCV averages areas only if both sides shrink.
    shrinks = min(image.shape[:2]) >= side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=interpolation)  # type: ignore[return-value]


def crop(image: Image, region: Region | None, margin: float = 0.0) -> Image:
    """The region of a photo (H, W, 3) with a share of its sides around it; None: the photo.

    `ImageError` if the region lies outside of the photo.
    """
    if region is None:
        return image
    height, width = image.shape[:2]
    left, top, right, bottom = region
    across, down = margin * (right - left), margin * (bottom - top)
    x1, x2 = max(0, round((left - across) * width)), min(width, round((right + across) * width))
    y1, y2 = max(0, round((top - down) * height)), min(height, round((bottom + down) * height))
    if x2 - x1 < 2 or y2 - y1 < 2:
        raise ImageError(f"the sign's region {region} lies outside of the image")
    return image[y1:y2, x1:x2]


def region_of(box: Box | None, image: Image) -> Region | None:
    """A box in pixels as a region of a photo (H, W, 3).

    `ImageError` if nothing of it lies on the photo, or if it is too small to show a sign.
    """
    if box is None:
        return None
    height, width = image.shape[:2]
    left, top, right, bottom = box
    shown = min(right, width) - max(left, 0), min(bottom, height) - max(top, 0)
    if not min(shown) >= 2:
        raise ImageError(
            f"the box {left:g},{top:g},{right:g},{bottom:g} (x1,y1,x2,y2) shows too little of a "
            f"photo of {width}x{height} pixels"
        )
    return left / width, top / height, right / width, bottom / height


def box_of(text: str) -> Box:
    """Four numbers with commas between them; `ImageError` if they are no box."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        left, top, right, bottom = np.nan, np.nan, np.nan, np.nan
    if not (np.isfinite([left, top]).all() and left < right < np.inf and top < bottom < np.inf):
        raise ImageError(f"{text[:60]!r} is no box: give x1,y1,x2,y2 in pixels, as in 10,20,60,80")
    return left, top, right, bottom


def equalize(stack: Image, settings: ImageSettings) -> Image:
    """The second half of `prepare`, from (N, size, size, 3) to (N, size, size, channels).

    One below the other, they are one tall image to OpenCV, whose calls cost more than
    converting a small image does.
    """
    count, side = stack.shape[:2]
    tall = stack.reshape(count * side, side, 3)
    if settings.color == "grey":
        luma = np.asarray(cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY), np.uint8)
        return _equalized(luma.reshape(count, side, side), settings.contrast)[..., None]
    if settings.contrast == "none":
        return stack
    tall = np.asarray(cv2.cvtColor(tall, cv2.COLOR_RGB2YCrCb), np.uint8)
    luma = np.ascontiguousarray(tall[..., 0]).reshape(count, side, side)
    tall[..., 0] = _equalized(luma, settings.contrast).reshape(count * side, side)
    return np.asarray(cv2.cvtColor(tall, cv2.COLOR_YCrCb2RGB), np.uint8).reshape(stack.shape)


def thumbnail(image: Image, side: int = 16) -> Image:
    """A small grey version of a decoded photo, uint8 (side, side), to compare photos by."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _has_jpeg_end(content: bytes) -> bool:
    """Whether the first photo in a JPEG file ends (ITU-T T.81, annex B).

    Steps over the segments: their content, such as a thumbnail, has end markers of its own.
    """
    # Most files have one start and one end. To walk takes a sixth of the time to decode, or more.
    second = JPEG_START_OR_END.search(content, 2)
    if second is None or second.end() == len(content):
        return second is not None and content[-1] == JPEG_END
    place = 2
    for _ in range(MAX_PARTS):
        found = JPEG_MARKER.search(content, place)
        if found is None:
            return False
        marker = content[found.start() + 1]
        if marker < 0xC0 or marker in (JPEG_START, JPEG_END):  # below 0xC0 there are none
            return marker == JPEG_END
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return False


def _has_png_end(content: bytes) -> bool:
    """Whether a PNG file's chunks lead to its end (ISO/IEC 15948, 5.3: length, type, data, CRC)."""
    place = 8
    for _ in range(MAX_PARTS):
        chunk = content[place : place + 12]
        if len(chunk) < 12 or chunk == PNG_END:
            return chunk == PNG_END
        place += 12 + int.from_bytes(chunk[:4])
    return False


def _equalized(lumas: Image, contrast: str) -> Image:
    """Grey images, uint8 (N, side, side), each equalized by itself, in place."""
    for luma in lumas:
        if contrast == "equalize":
            cv2.equalizeHist(luma, luma)
        elif contrast == "clahe":
            cv2.createCLAHE(clipLimit=2.0, tileGridSize=(4, 4)).apply(luma, luma)
    return lumas
