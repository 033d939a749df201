"""What the pictures show, by the colours at the places where it should be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from signs.reporting import grids, pictures, plots, style
from signs.reporting.grids import Line, Row, Tile
from stages.report import report
from tests.reporting.conftest import COLOURS, FILES, OOD_FILES, write

NAMES = ["$5 $9", *(f"Class {i} with quite a long name" for i in range(1, 58))]
SIDE = grids.pixels(40)
Draw = Callable[..., np.ndarray]


def picture(path: Path) -> np.ndarray:
    """RGB, int (H, W, 3)."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image.astype(int)


def where(image: np.ndarray, colour: str | tuple[int, ...], tolerance: int = 20) -> np.ndarray:
    """(row, column) of each pixel of about this colour, "#rrggbb" or RGB."""
    rgb = tuple(bytes.fromhex(colour[1:])) if isinstance(colour, str) else colour
    return np.argwhere(np.abs(image - rgb).max(axis=2) <= tolerance)


def middle(image: np.ndarray, left: float, top: float) -> np.ndarray:
    """Mean colour of 9 x 9 pixels around a place in units."""
    x, y = grids.pixels(left), grids.pixels(top)
    return np.asarray(image[y - 4 : y + 5, x - 4 : x + 5].mean(axis=(0, 1)))


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """What a function that saves a picture drew; a diagram stays small."""

    def draw(plot: Callable[..., None], *arguments: Any, **options: Any) -> np.ndarray:
        plot(*arguments, path=tmp_path / "a.png", **options)
        assert (tmp_path / "a.png").stat().st_size < 300_000
        return picture(tmp_path / "a.png")

    return draw


def solid(colour: tuple[int, ...], height: int = 30, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize("classes", [2, 58])
def test_confusion_is_legible_and_red_where_wrong(draw: Draw, classes: int) -> None:
    true = np.repeat(np.arange(classes), 1000)
    predicted = np.array([1, *true[1:]])
    before, after = (
        draw(plots.plot_confusion, true, labels, NAMES[:classes], range(classes))
        for labels in (true, predicted)
    )
    assert before.shape[0] > 300
    assert 300 < before.shape[1] < 2200
    diagonal = where(before, style.BLUE)
    assert len(diagonal) > classes * 100
    red, _, blue = np.moveaxis(after, -1, 0)
    new_red = np.argwhere((red - blue > 20) & (before[..., 0] - before[..., 2] < 10))
    # One error in a thousand is seen: in the first row, right of the diagonal's first cell.
    assert len(new_red) > 100
    assert np.ptp(new_red[:, 0]) < 2 * np.ptp(diagonal[:, 0]) / classes
    assert new_red[:, 1].min() > diagonal[:, 1].min()


def test_recall_bars_are_as_long_as_the_recall(draw: Draw) -> None:
    table = pd.DataFrame({"class_id": range(4), "name": NAMES[:4]})
    table["test"], table["test_groups"], table["correct"] = (
        [10, 10, 10, 0],
        [9, 1, 9, 0],
        [10, 5, 0, 0],
    )
    for column in ("recall", "recall_low", "recall_high"):
        table[column] = table["correct"] / table["test"].replace(0, np.nan)
    image = draw(plots.plot_recall, table)
    full, half = where(image, style.MIDDLE, 3), where(image, style.LIGHT, 3)
    assert np.ptp(half[:, 1]) == pytest.approx(np.ptp(full[:, 1]) / 2, rel=0.02)
    assert full[:, 0].max() < half[:, 0].min()
    assert np.ptp(half[:, 0]) < 30  # the classes with recall 0 and without photos have no bar


def test_reliability_shows_confidence_and_accuracy(draw: Draw) -> None:
    places = []
    for confidence in np.full((2, 100), [[0.3], [0.9]]):
        image = draw(plots.plot_reliability, *[confidence] * 2, np.arange(100) < 80, (0.1, 0.1))
        assert len(where(image, style.GREY, 3)) > 1000  # before, and the dashed line
        blue = where(image, style.BLUE, 3)
        assert blue[:, 1].min() > image.shape[1] / 2
        places.append(blue.mean(axis=0))
    assert places[1][1] > places[0][1] + 200


def test_curves_fall_and_rise(draw: Draw) -> None:
    epoch = np.arange(1, 31)
    values = 2 / epoch, 1 - 0.6 / epoch, 1.8 / epoch, 1 - 0.5 / epoch, 0.004 / epoch
    curves = pd.DataFrame(dict(zip(pictures.CURVES, values, strict=True)))
    draw(plots.plot_curves, curves.head(1))
    image = draw(plots.plot_curves, curves)
    for left, sign in ((60, 1), (660, -1)):
        panel = image[100:450, left : left + 400]
        assert sign * np.corrcoef(where(panel, style.BLUE, 3).T)[0, 1] > 0.4


@pytest.mark.parametrize("threshold", [-2.0, 0.5, 2.0])
def test_ood_photos_are_red_and_on_their_side(draw: Draw, threshold: float) -> None:
    image = draw(plots.plot_ood, np.ones(3), np.zeros(1), threshold)
    red, blue = (
        where(image, tuple(int(102 + 0.6 * c) for c in bytes.fromhex(colour[1:])), 3)
        for colour in (style.RED, style.BLUE)
    )
    assert min(len(red), len(blue)) > 1000
    assert np.median(red[:, 1]) < np.median(blue[:, 1])


def test_grid_puts_each_tile_in_its_place(draw: Draw) -> None:
    rows = [Row([Tile(solid(c)) for c in COLOURS]), Row([Tile(solid(COLOURS[2], 40, 20))])]
    image = draw(grids.plot_grid, rows, size=(40, 40), gap=10)
    for place, colour in enumerate(COLOURS):
        tile = image[grids.pixels(10) :, grids.pixels(10 + place * 50) :][:SIDE, :SIDE]
        assert (tile == colour).all()
    below = image[grids.pixels(60) :, grids.pixels(10) :][:SIDE, :SIDE]
    assert (below[:, SIDE // 4 : -SIDE // 4] == COLOURS[2]).all()  # its proportions are kept
    assert (below[:, : SIDE // 4 - 1] == grids.FRAME).all()
    tiles = sum(len(where(image, colour, 0)) for colour in COLOURS)
    assert tiles == pytest.approx(3.5 * SIDE**2)


def test_grid_writes_titles_beside_and_captions_below(draw: Draw) -> None:
    tile = Tile(solid(COLOURS[0]), [Line("first"), Line("second", style.RED)])
    rows, head = [Row([tile], "a title\nof two lines")] * 2, ("A heading", "explained")
    image = draw(grids.plot_grid, rows, size=(80, 80), gap=10, head=head)
    photos, red = where(image, COLOURS[0], 0), where(image, style.RED)
    left, top = photos[:, 1].min(), photos[:, 0].min()
    side = grids.pixels(80)
    assert len(photos) == 2 * side**2
    assert len(where(image[:, : left - 5][top:], style.DARK)) > 100  # titles
    assert len(where(image[: top - 5], style.DARK)) > 100  # heading
    assert (red[:, 1] >= left).all()
    second = photos[photos[:, 0] > top + side][:, 0].min()
    for start, end in ((top, second), (second, len(image))):
        rows = red[:, 0][(start <= red[:, 0]) & (red[:, 0] < end)]
        assert len(rows) > 20
        assert rows.min() > start + side


def test_the_stage_writes_pages_and_pictures_of_the_run(run: Path) -> None:
    write(run, OOD_FILES)
    made = run / "metrics/report"

    def outputs() -> dict[str, bytes]:
        report()
        files = [run / "report.html", run / "docs/model_card.md", *made.iterdir()]
        return {path.name: path.read_bytes() for path in files}

    assert outputs() == outputs()
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/") == 9
    # The most confident mistake comes first; what led to it is red, in the corner.
    mistakes = picture(made / "mistakes.jpg")
    for place, colour in enumerate((COLOURS[1], COLOURS[0])):
        left = 14 + place * (pictures.MISTAKE + 14)
        assert middle(mistakes, left + 93, 14 + 40) == pytest.approx(colour, abs=8)
        red, green, _ = middle(mistakes, left + 150, 14 + 150)
        assert (red > green + 60) == (place == 0)
    assert len(where(mistakes, style.RED)) > 100  # what was predicted
    # Each kind's row has the photo as it is, and more of the same colour where the harm is mild.
    corruptions = picture(made / "corruptions.jpg")
    assert len(where(corruptions, COLOURS[0])) > 13 * grids.pixels(pictures.EXAMPLE) ** 2
    duplicates = picture(made / "duplicates.jpg")
    for colour, count in ((COLOURS[1], 3), (COLOURS[0], 2)):
        tiles = len(where(duplicates, colour)) / grids.pixels(pictures.DUPLICATE) ** 2
        assert tiles == pytest.approx(count, abs=0.3)
    sheet = picture(made / "contact_sheet.png")
    for place, colour in enumerate(COLOURS):
        left = 10 + place * (pictures.SAMPLE + pictures.SAMPLES * (pictures.SAMPLE + 2) + 10)
        photo = middle(sheet, left + 1.5 * pictures.SAMPLE + 2, 10 + pictures.SAMPLE / 2)
        assert photo == pytest.approx(colour, abs=16)
        template = sheet[15:, grids.pixels(left) :][:48, :48]
        assert len(where(template, "#ffffff")) > 100
        assert len(where(template, (176, 32, 32), 40)) > 100  # the rim of a speed limit


def test_what_was_not_measured_has_no_picture(run: Path) -> None:
    for name, old, new in (
        ("metrics/evaluate/details.json", "corruption_example", "unused"),
        ("data/evaluation/predictions.csv", "False", "True"),
        ("metrics/preprocess/duplicates.csv", "\n", "\0"),
    ):
        write(run, {name: FILES[name].replace(old, new).split("\0")[0] + "\n"})
    write(run, {"metrics/report/ood.png": "of an earlier run"})
    report()
    made = {path.name for path in (run / "metrics/report").iterdir()}
    assert "confusion.png" in made
    assert not made & {"ood.png", "corruptions.jpg"}
    # That there is no mistake and no duplicate is said in words.
    for name in ("mistakes.jpg", "duplicates.jpg"):
        image = picture(run / "metrics/report" / name)
        assert image.shape[0] < 100
        assert len(where(image, style.DARK, 60)) > 100
