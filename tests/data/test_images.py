"""Bytes to arrays: every kind of file, every kind of damage."""

import contextlib
import io
import itertools
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from signs import MAX_PIXELS
from signs.data import images
from signs.data.images import TRAILING_BYTES, ImageError, decode, prepare, thumbnail
from signs.params import ImageSettings

ROOT = Path(__file__).parents[2]
COLORS = {"red": (220, 30, 20), "green": (20, 200, 40), "blue": (10, 40, 230)}


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


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def make_settings(**changes: object) -> ImageSettings:
    values = {"size": 32, "color": "rgb", "contrast": "none", "margin": 0.0} | changes
    return ImageSettings.model_validate(values)


# decode: what is an image


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "subsampling": 0}, 2),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}, 2),
    ],
)
def test_formats(kind: str, options: dict[str, object], tolerance: int) -> None:
    image = decode(encode(quarters(), kind, **options))
    assert image.dtype == np.uint8
    assert image.shape == (32, 48, 3)
    difference = np.abs(image.astype(int) - as_rgb(quarters()))
    assert difference.mean() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP"])
def test_grey_becomes_color(kind: str) -> None:
    grey = quarters().convert("L")
    image = decode(encode(grey, kind))
    assert image.shape == (32, 48, 3)
    assert (image == np.asarray(grey)[:, :, None]).all()


def test_palette() -> None:
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    assert (decode(encode(palette, "PNG")) == as_rgb(palette)).all()


def test_alpha_is_dropped() -> None:
    image = quarters().convert("RGBA")
    image.putalpha(128)
    assert (decode(encode(image, "PNG")) == as_rgb(quarters())).all()


def test_black_and_white_bits() -> None:
    image = Image.new("1", (32, 32))
    image.putpixel((3, 5), 1)
    pixels = decode(encode(image, "PNG"))
    assert (pixels[5, 3] == 255).all()
    assert np.count_nonzero(pixels) == 3


def test_16_bit_keeps_its_brightness() -> None:
    ramp = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    image = decode(encode(Image.fromarray(ramp), "PNG"))
    assert image.shape == (32, 48, 3)
    assert np.abs(image[:, :, 0] - ramp / 257).max() <= 1


def test_16_bit_color() -> None:
    wide = (as_rgb(quarters())[:, :, ::-1].astype(np.uint16) * 257).copy()
    content = cv2.imencode(".png", wide)[1].tobytes()
    assert (decode(content) == as_rgb(quarters())).all()


def test_cmyk_keeps_its_colors() -> None:
    content = encode(quarters().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    image = decode(content).astype(int)
    assert np.abs(image[8, 12] - COLORS["red"]).max() < 30
    assert np.abs(image[8, 36] - COLORS["green"]).max() < 30
    assert np.abs(image[24, 12] - COLORS["blue"]).max() < 30
    assert image[24, 36].min() > 225


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_rotation_is_undone(orientation: int, undo: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(quarters().transpose(undo), "JPEG", exif=exif, quality=95, subsampling=0)
    image = decode(content)
    assert image.shape == (32, 48, 3)
    assert np.abs(image.astype(int) - as_rgb(quarters())).max() <= 12


def test_bytes_after_the_end_of_a_photo() -> None:
    for kind in ("PNG", "JPEG"):
        assert decode(encode(quarters(), kind) + bytes(500)).shape == (32, 48, 3)


# decode: what is not


@pytest.mark.parametrize(
    "content",
    [b"a photo, honestly\n", b"\x00" * 1000, b"<html></html>", b"GIF89a" + bytes(50), b"P3\n1 1\n"],
)
def test_no_image(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"not an image of a known format \(PNG, JPEG"):
        decode(content)


def test_empty() -> None:
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_truncated(kind: str, share: float) -> None:
    content = encode(noise(), kind)
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("kind", "options", "missing"),
    # All pixels may be there, or a progressive file's coarse ones: still not the photo it was.
    [
        ("JPEG", {}, 1),
        ("JPEG", {}, 2),
        ("JPEG", {"progressive": True}, 2),
        ("JPEG", {"progressive": True}, 400),
        ("PNG", {}, 12),
    ],
)
def test_truncated_at_the_very_end(kind: str, options: dict[str, object], missing: int) -> None:
    with pytest.raises(ImageError, match="truncated"):
        decode(encode(noise(), kind, **options)[:-missing])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_and_small(kind: str) -> None:
    content = encode(noise(12, 12), kind)
    assert len(content) < TRAILING_BYTES
    for missing in (8, 12, 100):
        with pytest.raises(ImageError, match="truncated"):
            decode(content[:-missing])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM"])
def test_only_a_header(kind: str) -> None:
    content = encode(noise(), kind)
    for length in range(1, 40):
        with pytest.raises(ImageError):
            decode(content[:length])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 100), (100, 7)])
def test_too_small(width: int, height: int) -> None:
    with pytest.raises(ImageError, match=f"{width}x{height} pixels is too small, 8 a side"):
        decode(encode(noise(width, height), "PNG"))


def test_just_large_enough() -> None:
    assert decode(encode(noise(8, 8), "PNG")).shape == (8, 8, 3)


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
        ("import signs.training.augment", "PNG"),
        ("import stages.preprocess", "PNG"),
    ],
)
def test_too_many_pixels_are_refused_before_decoding(first: str, kind: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", HUGE.format(first=first, kind=kind)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said, grown, seconds = run.stdout.strip().split("|")
    assert said == "more than 50 million pixels"
    assert int(grown) < 50  # MiB; decoded it would be 286
    assert float(seconds) < 0.5


def test_too_many_pixels_whoever_imported_opencv_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(ImageError, match="million pixels"):
        decode(encode(noise(), "PNG"))
    assert MAX_PIXELS == 50_000_000


SAMPLES = [encode(noise(16, 12), kind) for kind in ("PNG", "JPEG", "PPM", "BMP", "WEBP")]


@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(SAMPLES),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))),
    cut=st.integers(0, 10_000),
)
def test_damage_gives_an_image_or_an_image_error(
    content: bytes, damage: list[tuple[int, bytes]], cut: int
) -> None:
    damaged = bytearray(content)
    for place, values in damage:
        start = place % len(content)
        damaged[start : start + len(values)] = values
    if cut % 2:
        damaged = damaged[: cut % len(damaged)]
    try:
        image = decode(bytes(damaged))
    except ImageError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8


@settings(max_examples=200, deadline=None)
@given(
    mark=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF", b"P5", b"P6"]),
    rest=st.binary(max_size=200),
    end=st.sampled_from([b"", b"IEND\xaeB`\x82", b"\xff\xd9"]),
)
def test_any_bytes_behind_a_mark(mark: bytes, rest: bytes, end: bytes) -> None:
    with contextlib.suppress(ImageError):
        assert decode(mark + rest + end).dtype == np.uint8


# prepare

PHOTO = as_rgb(noise(60, 45))[:, :, ::-1].copy()


@pytest.mark.parametrize(
    ("color", "contrast", "size"),
    list(itertools.product(["rgb", "grey"], ["none", "equalize", "clahe"], [8, 32, 100])),
)
@pytest.mark.parametrize("region", [None, (0.2, 0.1, 0.8, 0.9)])
def test_prepared_shape(
    color: str, contrast: str, size: int, region: tuple[float, float, float, float] | None
) -> None:
    options = make_settings(color=color, contrast=contrast, size=size)
    result = prepare(PHOTO, options, region)
    assert result.dtype == np.uint8
    assert result.shape == (size, size, options.channels)
    assert result.std() > 5


def test_channels_are_red_green_blue() -> None:
    photo = decode(encode(quarters(64, 64), "PNG"))
    for contrast in ("none", "equalize", "clahe"):
        result = prepare(photo, make_settings(contrast=contrast)).astype(int)
        assert result[4, 4].argmax() == 0, contrast
        assert result[4, 28].argmax() == 1, contrast
        assert result[28, 4].argmax() == 2, contrast
    plain = prepare(photo, make_settings())
    assert tuple(plain[4, 4]) == COLORS["red"]
    assert tuple(plain[28, 4]) == COLORS["blue"]


def test_grey_weighs_colors_as_the_eye_does() -> None:
    photo = decode(encode(quarters(64, 64), "PNG"))
    grey = prepare(photo, make_settings(color="grey"))[:, :, 0]
    for place, color in {(4, 4): "red", (4, 28): "green", (28, 4): "blue"}.items():
        assert grey[place] == pytest.approx(np.dot(COLORS[color], [0.299, 0.587, 0.114]), abs=1)


def test_photo_is_left_as_it_was() -> None:
    before = PHOTO.copy()
    prepare(PHOTO, make_settings(contrast="equalize", size=45), (0.1, 0.1, 0.9, 0.9))
    assert (before == PHOTO).all()


def dotted() -> np.ndarray:
    """100 x 200 black, with a white sign at rows 40-60, columns 60-120."""
    photo = np.zeros((100, 200, 3), np.uint8)
    photo[40:60, 60:120] = 255
    return photo


SIGN = (60 / 200, 40 / 100, 120 / 200, 60 / 100)


def test_region_is_cut_out_exactly() -> None:
    assert (prepare(dotted(), make_settings(size=40), SIGN) == 255).all()


def test_margin_is_a_share_of_the_region() -> None:
    # Half of the region on each side: the sign fills the middle half.
    result = prepare(dotted(), make_settings(size=40, margin=0.5), SIGN)[:, :, 0]
    assert (result[11:29, 11:29] == 255).all()
    assert result[:9].max() == result[:, :9].max() == result[31:].max() == result[:, 31:].max() == 0


def test_without_region_there_is_no_margin() -> None:
    narrow, wide = make_settings(margin=0.0), make_settings(margin=0.5)
    assert (prepare(PHOTO, narrow) == prepare(PHOTO, wide)).all()
    assert (prepare(PHOTO, narrow) == prepare(PHOTO, narrow, (0.0, 0.0, 1.0, 1.0))).all()


@pytest.mark.parametrize("corner", range(4))
def test_margin_ends_at_the_border(corner: int) -> None:
    left, top = (corner % 2) / 2, (corner // 2) / 2
    whole = np.zeros((80, 80, 3), np.uint8)
    rows, columns = slice(40 * (corner // 2), None), slice(40 * (corner % 2), None)
    whole[rows, columns][:40, :40] = 200
    result = prepare(whole, make_settings(size=40, margin=0.2), (left, top, left + 0.5, top + 0.5))
    # Cut to 48 x 48: 40 pixels of sign and 8 of margin, on the inner sides only.
    assert (result > 100).mean() == pytest.approx((40 / 48) ** 2, abs=0.05)
    outer = result[0 if corner < 2 else -1, 0 if corner % 2 == 0 else -1]
    assert (outer == 200).all()


@pytest.mark.parametrize(
    "region",
    [(1.2, 0.2, 1.5, 0.6), (0.2, -0.8, 0.5, -0.2), (0.5, 0.5, 0.5, 0.5), (0.8, 0.2, 0.3, 0.9)],
)
def test_region_outside_or_empty(region: tuple[float, float, float, float]) -> None:
    with pytest.raises(ImageError, match="region"):
        prepare(PHOTO, make_settings(), region)


def test_region_partly_outside_is_cut() -> None:
    photo = np.full((40, 40, 3), 90, np.uint8)
    assert (prepare(photo, make_settings(), (0.5, 0.5, 1.4, 1.4)) == 90).all()


def ramp(low: int, high: int) -> np.ndarray:
    row = np.linspace(low, high, 64).astype(np.uint8)
    return np.repeat(np.repeat(row[None, :, None], 64, axis=0), 3, axis=2)


@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_equalize_fills_the_whole_range_evenly(color: str) -> None:
    dull = ramp(90, 153)
    plain = prepare(dull, make_settings(color=color, size=64))
    evened = prepare(dull, make_settings(color=color, size=64, contrast="equalize"))
    assert np.ptp(plain) <= 64
    assert evened.min() == 0
    assert evened.max() == 255
    # Even: each quarter of the range holds a quarter of the pixels.
    counts = np.histogram(evened, bins=4, range=(0, 256))[0] / evened.size
    assert counts == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_clahe_raises_contrast_within_each_part(color: str) -> None:
    # Dark left, bright right, faint waves on both: to the whole photo's histogram two peaks.
    waves = 12 * np.sin(np.arange(64)[:, None] * 0.7) * np.sin(np.arange(64)[None, :] * 0.7)
    photo = np.where(np.arange(64) < 32, 50, 200)[None, :] + waves
    photo = np.repeat(photo[:, :, None], 3, axis=2).astype(np.uint8)
    plain = prepare(photo, make_settings(color=color, size=64)).astype(float)
    evened = prepare(photo, make_settings(color=color, size=64, contrast="clahe")).astype(float)
    for part in (slice(4, 28), slice(36, 60)):
        assert evened[:, part].std() > 1.5 * plain[:, part].std()


@pytest.mark.parametrize(
    ("color", "contrast"), list(itertools.product(["rgb", "grey"], ["none", "equalize", "clahe"]))
)
@pytest.mark.parametrize("side", [32, 100])
def test_mirror_images_stay_mirror_images(color: str, contrast: str, side: int) -> None:
    rng = np.random.default_rng(3)
    photo = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (64, 64))
    options = make_settings(color=color, contrast=contrast, size=side)
    region, mirrored = (0.25, 0.1, 0.875, 0.9), (0.125, 0.1, 0.75, 0.9)
    one = prepare(photo, options, region).astype(int)
    other = prepare(photo[:, ::-1].copy(), options, mirrored)[:, ::-1].astype(int)
    assert np.abs(one - other).mean() < (4 if contrast == "clahe" else 1)
    assert np.abs(one - one[:, ::-1]).mean() > 10


def test_thumbnail() -> None:
    small = thumbnail(decode(encode(quarters(64, 64), "PNG")))
    assert small.shape == (16, 16)
    assert small.dtype == np.uint8
    assert small[2, 2] == pytest.approx(np.dot(COLORS["red"], [0.299, 0.587, 0.114]), abs=1)
    assert small[13, 13] == 255
