"""The embedded data set: drawings that can be told apart, photos that never change."""

import csv
import itertools
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from signs.data import layouts
from signs.data.images import decode
from signs.params import Params, Range, Synthesize, load
from signs.synthesis import render
from stages.synthesize import all_classes, contact_sheet, replaced, write_archive

ROOT = Path(__file__).parents[2]
CLASSES = range(43)
MIRRORED = [(19, 20), (33, 34), (36, 37), (38, 39)]


@pytest.fixture(scope="module")
def settings() -> Synthesize:
    params: Params = load(ROOT / "params.yaml")
    return params.synthesize.model_copy(update={"images_per_class": 3})


@pytest.fixture(scope="module")
def archive(settings: Synthesize, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one") / "images.zip"
    write_archive(path, settings, all_classes("gtsrb"), workers=1)
    return path


def on_grey(drawing: np.ndarray) -> np.ndarray:
    alpha = drawing[:, :, 3:] / 255
    return drawing[:, :, :3] * alpha + 128 * (1 - alpha)


@pytest.fixture(scope="module")
def templates_of() -> dict[int, np.ndarray]:
    return {
        c: on_grey(render.rasterize(paths[0], 64))
        for c, paths in render.templates_of("gtsrb").items()
    }


@pytest.mark.parametrize("labels", ["gtsrb", "signs"])
def test_every_class_has_a_drawing_of_its_name(labels: str) -> None:
    with (layouts.LABELS / f"{labels}.csv").open(encoding="utf-8", newline="") as file:
        names = {int(row["ClassId"]): row["Name"] for row in csv.DictReader(file)}
    drawn = render.templates_of(labels)
    assert list(drawn) == list(names)
    for class_id, paths in drawn.items():
        for path in paths:
            assert f"<title>{names[class_id]}</title>" in path.read_text(encoding="utf-8"), path
            render.rasterize(path)


@pytest.mark.parametrize(
    ("dataset", "labels"),
    [("gtsrb", "gtsrb"), ("signs", "signs"), ("synthetic", "gtsrb"), ("own", "gtsrb")],
)
def test_the_photo_set_decides_what_is_drawn(dataset: str, labels: str) -> None:
    assert render.label_set(dataset) == labels


def test_drawings_use_no_fonts() -> None:
    for path in render.TEMPLATES.glob("*/*.svg"):
        assert "<text" not in path.read_text(encoding="utf-8"), path


def test_drawings_can_be_told_apart(drawings: dict[int, np.ndarray]) -> None:
    for one, other in itertools.combinations(drawings, 2):
        different = (np.abs(drawings[one] - drawings[other]).max(axis=2) > 60).mean()
        assert different > 0.01, f"{one} and {other} look the same"


@pytest.mark.parametrize(("one", "other"), MIRRORED)
def test_mirrored_classes(one: int, other: int, drawings: dict[int, np.ndarray]) -> None:
    mirrored = np.abs(drawings[one][:, ::-1] - drawings[other]).mean()
    as_drawn = np.abs(drawings[one] - drawings[other]).mean()
    assert mirrored < 1
    assert as_drawn > 5


@pytest.mark.parametrize(
    "svg",
    [
        "no drawing",
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>',
    ],
)
def test_bad_drawing_is_named(svg: str, tmp_path: Path) -> None:
    path = tmp_path / "07.svg"
    path.write_text(svg)
    with pytest.raises(render.TemplateError, match=r"07\.svg"):
        render.rasterize(path)


def test_missing_drawing_is_named(tmp_path: Path) -> None:
    with pytest.raises(render.TemplateError, match=r"99\.svg"):
        render.rasterize(tmp_path / "99.svg")


def test_number_of_processes_changes_nothing(
    settings: Synthesize, archive: Path, tmp_path: Path
) -> None:
    two = tmp_path / "images.zip"
    write_archive(two, settings, all_classes("gtsrb"), workers=2)
    assert two.read_bytes() == archive.read_bytes()


def test_seed_class_and_index_each_change_the_photo(settings: Synthesize) -> None:
    other_seed = settings.model_copy(update={"seed": settings.seed + 1})
    photos = {
        render.render(settings, "gtsrb", 1, 0),
        render.render(settings, "gtsrb", 1, 1),
        render.render(settings, "gtsrb", 2, 0),
        render.render(other_seed, "gtsrb", 1, 0),
    }
    assert len(photos) == 4


def test_more_images_leave_the_first_ones_alone(
    settings: Synthesize, archive: Path, tmp_path: Path
) -> None:
    path = tmp_path / "images.zip"
    more = settings.model_copy(update={"images_per_class": 4})
    write_archive(path, more, all_classes("gtsrb"), workers=1)
    with zipfile.ZipFile(archive) as first, zipfile.ZipFile(path) as second:
        assert all(first.read(name) == second.read(name) for name in first.namelist())


def test_archive_layout(archive: Path, settings: Synthesize) -> None:
    with zipfile.ZipFile(archive) as opened:
        expected = [f"{c}/{i:05d}.jpg" for c in CLASSES for i in range(3)]
        assert opened.namelist() == expected
        assert all(m.compress_type == zipfile.ZIP_STORED for m in opened.infolist())
        for name in expected:
            height, width = decode(opened.read(name)).shape[:2]
            assert height == width
            assert settings.size.low <= width <= settings.size.high


@pytest.mark.parametrize("extreme", ["low", "high"])
def test_extreme_settings_still_give_photos(extreme: str, settings: Synthesize) -> None:
    def one(low: float, high: float) -> Range:
        value = low if extreme == "low" else high
        return Range(low=value, high=value)

    bold = settings.model_copy(
        update={
            "size": one(8, 256),
            "margin": one(0, 0.4),
            "blur": one(0, 0.2),
            "brightness": one(1, 1000),
            "saturation": one(0, 3),
            "noise": one(0, 1),
            "quality": one(1, 100),
        }
    )
    for index in range(20):
        assert decode(render.render(bold, "gtsrb", 14, index)).shape[0] == bold.size.low


def test_photo_shows_its_class(settings: Synthesize) -> None:
    """Without disturbances a photo is the drawing, upright and not mirrored."""
    calm = settings.model_copy(
        update={
            "size": Range(low=64, high=64),
            "margin": Range(low=0, high=0),
            "saturation": Range(low=1, high=1),
            "brightness": Range(low=255, high=255),
            "blur": Range(low=0, high=0),
            "noise": Range(low=0, high=0),
            "quality": Range(low=95, high=95),
        }
        | dict.fromkeys(("shift", "aspect", "rotation", "perspective", "bend", "hue", "haze"), 0.0)
        | dict.fromkeys(("shade", "fade", "wear", "occlusion", "aliasing", "mosaic"), 0.0)
    )
    inside = slice(12, 52), slice(12, 52)
    drawn = {
        (class_id, path.stem): filling(path)[inside]
        for class_id, paths in render.templates_of("gtsrb").items()
        for path in paths
    }
    # Other drawings are compared with, but an empty ring's middle is like nothing.
    drawn = {key: grey for key, grey in drawn.items() if grey.std() > 1}
    for class_id in {class_id for class_id, _ in drawn}:
        photo = decode(render.render(calm, "gtsrb", class_id, 0))
        middle = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[inside]
        likeness = {
            key: np.corrcoef(middle.ravel(), grey.ravel())[0, 1] for key, grey in drawn.items()
        }
        assert max(likeness, key=lambda key: likeness[key])[0] == class_id


def test_a_mosaic_leaves_plain_colours_and_fringes_fine_lines() -> None:
    plain = np.empty((9, 11, 3), np.uint8)
    plain[:] = 10, 100, 200
    assert (render._mosaic(plain) == plain).all()
    lines = np.zeros((12, 12, 3), np.uint8)
    lines[:, ::2] = 255  # black and white, without any colour
    seen = render._mosaic(lines)[3:-3, 3:-3].astype(int)
    assert np.ptp(seen, axis=2).max() > 100


@pytest.mark.parametrize("knob", ["aliasing", "mosaic", "bend", "haze", "wear", "fade"])
def test_each_knob_changes_photos(knob: str, settings: Synthesize) -> None:
    without, much = (settings.model_copy(update={knob: value}) for value in (0.0, 1.0))
    photos = [
        [render.render(chosen, "gtsrb", 25, index) for index in range(8)]
        for chosen in (without, much)
    ]
    assert sum(one != other for one, other in zip(*photos, strict=True)) >= 4


def filling(path: Path) -> np.ndarray:
    """A drawing in grey that fills 64x64 pixels, as in a photo."""
    drawing = render.rasterize(path)
    left, top, width, height = cv2.boundingRect((drawing[:, :, 3] > 0).astype(np.uint8))
    grey = cv2.cvtColor(on_grey(drawing).astype(np.uint8), cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey[top : top + height, left : left + width], (64, 64))


@pytest.mark.parametrize("labels", ["gtsrb", "signs"])
def test_contact_sheet_is_a_small_picture(
    labels: str, settings: Synthesize, tmp_path: Path
) -> None:
    write_archive(tmp_path / "images.zip", settings, all_classes(labels), workers=1)
    sheet = contact_sheet(tmp_path / "images.zip", labels)
    assert len(sheet) < 500_000
    assert decode(sheet).shape[1] > 800


def test_failure_leaves_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "images.zip"
    target.write_text("before")

    def stopped() -> None:
        with replaced(target) as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [p.name for p in tmp_path.iterdir()] == ["images.zip"]
    assert target.read_text() == "before"
