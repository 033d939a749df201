"""From the bytes of a photo to the array that a network sees."""

import io
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from signs import MAX_PIXELS
from signs.data import images
from signs.data.images import MAX_PARTS, ImageError, decode, prepare, thumbnail
from signs.params import ImageSettings

ROOT = Path(__file__).parents[2]
COLORS = {"red": (220, 30, 20), "green": (20, 200, 40), "blue": (10, 40, 230)}
LUMA = [0.299, 0.587, 0.114]
CONTRASTS = ["none", "equalize", "clahe"]
Region = tuple[float, float, float, float]


def quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Red, green / blue, white: tells channels, axes and orientation apart."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[: height // 2, : width // 2] = COLORS["red"]
    pixels[: height // 2, width // 2 :] = COLORS["green"]
    pixels[height // 2 :, : width // 2] = COLORS["blue"]
    return Image.fromarray(pixels)


def noise(width: int = 48, height: int = 32) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def make_settings(**changes: object) -> ImageSettings:
    values = {"size": 32, "color": "rgb", "contrast": "none", "margin": 0.0} | changes
    return ImageSettings.model_validate(values)


# decode: what is an image


# The film of a motion photo. By chance it holds JPEG's end marker, too.
FILM = b"\0\0\0\x18ftypmp42" + np.random.default_rng(2).bytes(200_000)
assert b"\xff\xd9" in FILM[:-1024]
BARE_EXIF = b"Exif\0\0II*\0\x08\0\0\0" + bytes(6)


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF entry holds a JPEG, as cameras write it."""
    small = encode(quarters(16, 16), "JPEG")
    return encode(noise(), "JPEG", exif=BARE_EXIF + small)


def test_the_first_photo_of_a_panorama_is_read():
    first, second = quarters(), noise()
    content = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert content.count(b"\xff\xd8\xff") == 2
    for whole in (content, content[:-100]):  # the second photo may be cut
        assert np.abs(decode(whole).astype(int) - as_rgb(first)).mean() < 12


@pytest.mark.parametrize(
    ("image", "kind", "options", "tolerance"),
    [
        *[(quarters(), kind, {}, 0) for kind in ("PNG", "BMP", "PPM")],
        *[(quarters().convert("L"), kind, {}, 0) for kind in ("PNG", "BMP", "PPM")],
        *[(quarters().convert(mode), "PNG", {}, 0) for mode in ("1", "P", "RGBA")],
        (quarters(), "TIFF", {}, 0),
        (quarters(), "TIFF", {"compression": "tiff_lzw"}, 0),
        (quarters(), "GIF", {}, 1),
        (quarters(), "JPEG2000", {"irreversible": False}, 0),
        (quarters(), "AVIF", {"quality": 100, "subsampling": "4:4:4"}, 3),
        (quarters(), "WEBP", {"lossless": True}, 0),
        (quarters(), "WEBP", {"quality": 95}, 4),
        (quarters(), "JPEG", {"quality": 95, "subsampling": 0}, 2),
        (quarters(), "JPEG", {"quality": 95, "progressive": True, "subsampling": 0}, 2),
        (quarters().convert("CMYK"), "JPEG", {"quality": 95, "subsampling": 0}, 15),
    ],
)
def test_formats(image, kind, options, tolerance):
    if image.mode == "RGBA":
        image.putalpha(128)  # is dropped
    content = encode(image, kind, **options)
    decoded = decode(content)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (32, 48, 3)
    assert np.abs(decoded.astype(int) - as_rgb(image)).mean() <= tolerance
    # Some cameras append something.
    assert (decode(content + bytes(500)) == decoded).all()
    assert (decode(content + FILM) == decoded).all()


def test_16_bit_photos_keep_their_brightness_and_colour():
    ramp = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    image = decode(encode(Image.fromarray(ramp)))
    assert np.abs(image - ramp[:, :, None] / 257).max() <= 1
    deep = as_rgb(quarters())[:, :, ::-1].astype(np.uint16) * 257
    content = cv2.imencode(".png", deep)[1].tobytes()
    assert (decode(content) == as_rgb(quarters())).all()


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_rotation_is_undone(orientation, undo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(quarters().transpose(undo), "JPEG", exif=exif, quality=95, subsampling=0)
    image = decode(content)
    assert image.shape == (32, 48, 3)
    assert np.abs(image.astype(int) - as_rgb(quarters())).max() <= 12


# decode: what is not


UNKNOWN = r"not an image of a known format \(PNG, JPEG"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"a photo, honestly\n", UNKNOWN),
        (bytes(1000), UNKNOWN),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC is not read: save the photo as JPEG"),
        (b"GIF89a" + bytes(50), "the GIF file is damaged"),
        (b"qoif" + bytes(50), UNKNOWN),
        (b"P3\n1 1\n", UNKNOWN),
        (encode(noise(1, 1)), "1x1 pixels is too small, 8 a side"),
        (encode(noise(7, 100)), "7x100 pixels is too small"),
        (encode(noise(100, 7)), "100x7 pixels is too small"),
    ],
)
def test_what_is_no_usable_image_is_refused(content, problem):
    with pytest.raises(ImageError, match=problem):
        decode(content)
    assert decode(encode(noise(8, 8))).shape == (8, 8, 3)  # the smallest usable one


def test_the_first_frame_of_an_animation_is_read():
    file = io.BytesIO()
    quarters().save(file, "GIF", save_all=True, append_images=[noise(), noise()])
    assert np.abs(decode(file.getvalue()).astype(int) - as_rgb(quarters())).mean() <= 1


KINDS = ["PNG", "JPEG", "PPM", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000"]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused(kind):
    content = encode(noise(), kind)
    for share in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            decode(content[: int(len(content) * share)])
    for length in range(1, 40):
        with pytest.raises(ImageError):
            decode(content[:length])


@pytest.mark.parametrize("after", [b"", FILM, encode(quarters(), "JPEG")])
@pytest.mark.parametrize(
    ("side", "kind", "options", "missing"),
    # All pixels may be there, or a progressive file's coarse ones: still not the photo it was.
    [
        (48, "JPEG", {}, (1, 2)),
        (48, "JPEG", {"progressive": True}, (2, 400)),
        (48, "JPEG", {"restart_marker_blocks": 1}, (2, 400)),
        (48, "PNG", {}, (1, 12)),
        (12, "JPEG", {}, (8, 12, 100)),
        (12, "PNG", {}, (8, 12, 100)),
    ],
)
def test_files_truncated_at_the_very_end_are_refused(side, kind, options, missing, after):
    content = encode(noise(side, side), kind, **options)
    assert decode(content + after).shape == (side, side, 3)
    for count in missing:
        with pytest.raises(ImageError, match="truncated"):
            decode(content[:-count] + after)


def test_a_thumbnails_end_is_not_the_photos():
    content = with_thumbnail()
    assert decode(content).shape == (32, 48, 3)
    assert decode(content + FILM).shape == (32, 48, 3)
    assert content.index(b"\xff\xd9") < 1024
    for length in range(2, len(content)):
        with pytest.raises(ImageError, match=r"truncated|not an image"):
            decode(content[:length])


@pytest.mark.parametrize(
    ("start", "part", "end"),
    [
        (b"\xff\xd8", b"\xff\xfe\0\2", b"\xff\xd9\0"),
        (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0tEXt\0\0\0\0", b"\0\0\0\0IEND\0\0\0\0"),
    ],
)
def test_a_file_of_countless_parts_keeps_nobody_busy(start, part, end):
    content = start + part * (images.MAX_BYTES // len(part)) + end
    assert content.count(part) > 10 * MAX_PARTS
    before = time.process_time()
    with pytest.raises(ImageError, match="truncated"):
        decode(content)
    assert time.process_time() - before < 1


HUGE = """
import io, resource, sys, time
{first}
from signs.data import images
from PIL import Image

file = io.BytesIO()
Image.new("1", (10_000, 10_000)).save(file, {kind!r})
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    images.decode(file.getvalue())
except images.ImageError as error:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(error, grown // 1024, round(time.process_time() - started, 2), sep="|")
"""


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        ("", "PNG"),
        ("", "BMP"),
        ("", "TIFF"),
        ("", "GIF"),
        ("import signs.training.augment", "PNG"),
        ("import stages.preprocess", "PNG"),
    ],
)
def test_too_many_pixels_are_refused_before_decoding(first, kind):
    command = [sys.executable, "-c", HUGE.format(first=first, kind=kind)]
    printed = subprocess.check_output(command, cwd=ROOT, text=True)
    message, grown, seconds = printed.strip().split("|")
    assert message == "more than 50 million pixels"
    assert int(grown) < 50  # MiB; decoded it would be 286
    assert float(seconds) < 0.5


def test_too_many_pixels_if_opencv_was_imported_first(monkeypatch):
    assert MAX_PIXELS == 50_000_000
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(ImageError, match="million pixels"):
        decode(encode(noise()))


SAMPLES = [encode(noise(16, 12), kind) for kind in KINDS]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A photo with some bytes changed, left out, doubled or added, perhaps cut short."""
    content = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 8))):
        # Headers are where it hurts.
        place = draw(st.integers(0, 64) | st.integers(0, len(content)))
        end = place + draw(st.sampled_from([0, 1, 20, len(content)]))  # what is replaced
        again = content[place : place + draw(st.integers(0, 200))]
        content[place:end] = draw(st.binary(max_size=40) | st.just(bytes(again)))
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


any_bytes_behind_a_mark = st.builds(
    lambda *parts: b"".join(parts),
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF", b"P5", b"P6"]),
    st.binary(max_size=200),
    st.sampled_from([b"", b"IEND\xaeB`\x82", b"\xff\xd9"]),
)


@settings(max_examples=500, deadline=None)
@given(content=damaged() | any_bytes_behind_a_mark)
def test_any_bytes_give_an_image_or_an_image_error(content):
    try:
        image = decode(content)
    except ImageError:
        return
    assert image.shape[2:] == (3,)
    assert image.dtype == np.uint8
    assert prepare(image, make_settings()).shape == (32, 32, 3)


# prepare

PHOTO = as_rgb(noise(60, 45))[:, :, ::-1].copy()


@pytest.mark.parametrize("color", ["rgb", "grey"])
@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("region", [None, (0.2, 0.1, 0.8, 0.9)])
def test_size_and_channels_are_as_set(color, contrast, region):
    before = PHOTO.copy()
    for size in (8, 32, 45, 100):
        options = make_settings(color=color, contrast=contrast, size=size)
        result = prepare(PHOTO, options, region)
        assert result.dtype == np.uint8
        assert result.shape == options.shape
        assert result.std() > 5
    assert (before == PHOTO).all()


def test_channels_are_red_green_blue():
    photo = decode(encode(quarters(64, 64)))
    for contrast in CONTRASTS:
        result = prepare(photo, make_settings(contrast=contrast)).astype(int)
        strongest = [result[place].argmax() for place in ((4, 4), (4, 28), (28, 4))]
        assert strongest == [0, 1, 2], contrast
    plain = prepare(photo, make_settings())
    assert tuple(plain[4, 4]) == COLORS["red"]
    assert tuple(plain[28, 4]) == COLORS["blue"]


def test_grey_weighs_colors_as_the_eye_does():
    photo = decode(encode(quarters(64, 64)))
    grey, small = prepare(photo, make_settings(color="grey"))[:, :, 0], thumbnail(photo)
    assert small.shape == (16, 16)
    assert small.dtype == np.uint8
    for (row, column), color in {(0, 0): "red", (0, 1): "green", (1, 0): "blue"}.items():
        expected = pytest.approx(np.dot(COLORS[color], LUMA), abs=1)
        assert grey[4 + 24 * row, 4 + 24 * column] == expected
        assert small[2 + 11 * row, 2 + 11 * column] == expected


def dotted() -> np.ndarray:
    """100 x 200 black, with a white sign at rows 40-60, columns 60-120."""
    photo = np.zeros((100, 200, 3), np.uint8)
    photo[40:60, 60:120] = 255
    return photo


SIGN = (60 / 200, 40 / 100, 120 / 200, 60 / 100)


def test_the_margin_is_a_share_of_the_region():
    assert (prepare(dotted(), make_settings(size=40), SIGN) == 255).all()
    # Half of the region on each side: the sign fills the middle half.
    result = prepare(dotted(), make_settings(size=40, margin=0.5), SIGN)[:, :, 0]
    assert (result[11:29, 11:29] == 255).all()
    assert result[:9].max() == result[:, :9].max() == result[31:].max() == result[:, 31:].max() == 0
    narrow, wide = make_settings(margin=0.0), make_settings(margin=0.5)
    for region in (None, (0.0, 0.0, 1.0, 1.0)):
        assert (prepare(PHOTO, narrow, region) == prepare(PHOTO, wide)).all()


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 40), (40, 0), (40, 40)])
def test_region_and_margin_end_at_the_border(top, left):
    photo = np.zeros((80, 80, 3), np.uint8)
    photo[top : top + 40, left : left + 40] = 200
    region = (left / 80, top / 80, left / 80 + 0.5, top / 80 + 0.5)
    result = prepare(photo, make_settings(size=40, margin=0.2), region)
    # Cut to 48 x 48: 40 pixels of sign and 8 of margin, on the inner sides only.
    assert (result > 100).mean() == pytest.approx((40 / 48) ** 2, abs=0.05)
    assert (result[-1 if top else 0, -1 if left else 0] == 200).all()
    beyond = (left / 40 - 0.5, top / 40 - 0.5, left / 40 + 0.5, top / 40 + 0.5)
    assert (prepare(photo, make_settings(), beyond) == 200).all()


@pytest.mark.parametrize(
    "region",
    [(1.2, 0.2, 1.5, 0.6), (0.2, -0.8, 0.5, -0.2), (0.5, 0.5, 0.5, 0.5), (0.8, 0.2, 0.3, 0.9)],
)
def test_a_region_outside_of_the_photo_or_empty_is_refused(region):
    with pytest.raises(ImageError, match="region"):
        prepare(PHOTO, make_settings(), region)


@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_equalize_fills_the_whole_range_evenly(color):
    ramp = np.linspace(90, 153, 64).astype(np.uint8)
    dull = np.broadcast_to(ramp[None, :, None], (64, 64, 3)).copy()
    plain = prepare(dull, make_settings(color=color, size=64))
    equalized = prepare(dull, make_settings(color=color, size=64, contrast="equalize"))
    assert np.ptp(plain) <= 64
    assert np.ptp(equalized) == 255
    # Even: each quarter of the range holds a quarter of the pixels.
    counts = np.histogram(equalized, bins=4, range=(0, 256))[0] / equalized.size
    assert counts == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_clahe_raises_contrast_within_each_part(color):
    # Dark left, bright right, faint waves on both: to the whole photo's histogram two peaks.
    waves = 12 * np.sin(np.arange(64)[:, None] * 0.7) * np.sin(np.arange(64)[None, :] * 0.7)
    photo = np.where(np.arange(64) < 32, 50, 200)[None, :] + waves
    photo = np.repeat(photo[:, :, None], 3, axis=2).astype(np.uint8)
    plain, equalized = (
        prepare(photo, make_settings(color=color, size=64, contrast=contrast)).astype(float)
        for contrast in ("none", "clahe")
    )
    for part in (slice(4, 28), slice(36, 60)):
        assert equalized[:, part].std() > 1.5 * plain[:, part].std()


@pytest.mark.parametrize("color", ["rgb", "grey"])
@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("side", [32, 100])
def test_mirror_images_stay_mirror_images(color, contrast, side):
    rng = np.random.default_rng(3)
    photo = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (64, 64))
    options = make_settings(color=color, contrast=contrast, size=side)
    region, mirrored = (0.25, 0.1, 0.875, 0.9), (0.125, 0.1, 0.75, 0.9)
    one = prepare(photo, options, region).astype(int)
    other = prepare(photo[:, ::-1].copy(), options, mirrored)[:, ::-1].astype(int)
    assert np.abs(one - other).mean() < (4 if contrast == "clahe" else 1)
    assert np.abs(one - one[:, ::-1]).mean() > 10
