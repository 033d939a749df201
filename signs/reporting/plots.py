"""Diagrams of what a classifier learned and where it fails; same input, same bytes."""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from signs.data.images import Image
from signs.evaluation.calibration import ECE_BINS as BINS
from signs.evaluation.calibration import Bools, Floats, Ints, wilson_interval

UNIT = 100  # lengths below are in hundredths of an inch, about a pixel on a plain screen
DPI = 150  # sharp on dense screens, and still a small file
BLUE, RED, GREY, DARK, FAINT = "#1d5fa8", "#c0341d", "#8b949e", "#1b1f24", "#e6e9ec"
MIDDLE, LIGHT, QUIET = "#5a92cd", "#b3cfec", "#5c6570"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": DARK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": FAINT,
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "text.color": DARK,
    "text.parse_math": False,  # a class may be named "$5 toll, $9 for trucks"
    "xtick.color": DARK,
    "ytick.color": DARK,
}
GALLERY_COLUMNS, TILE, GALLERY_GAP, LINE = 6, 186, 14, 14


def plot_confusion(
    true: Ints, predicted: Ints, names: Sequence[str], path: Path, ids: Sequence[int] | None = None
) -> None:
    """Save the confusion matrix: shares of each row as colour, counts of errors as numbers.

    Args:
        true: label of each photo, a position in `names`.
        predicted: label that the classifier answered.
        names: of all classes.
        path: the PNG.
        ids: the classes' numbers, where they are not 0, 1, 2 ...
    """
    count = len(names)
    ids = range(count) if ids is None else ids
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (true, predicted), 1)
    totals = matrix.sum(axis=1)
    # A square root with an offset: one error in a thousand is still seen.
    strength = np.sqrt(matrix / np.maximum(1, totals)[:, None])
    strength = np.where(matrix > 0, 0.15 + 0.85 * strength, 0)
    hue = np.where(np.eye(count, dtype=bool)[..., None], to_rgb(BLUE), to_rgb(RED))
    cell = int(np.clip(700 / count, 16, 70))
    side, left = count * cell, _margin(names)
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas((side, side), (left, max(20, 480 - left - side), 74, 36))
        axes.imshow(1 - strength[..., None] * (1 - hue), interpolation="nearest", aspect="auto")
        for row, column in np.argwhere(matrix):
            if row != column or count <= 20:
                colour = "white" if strength[row, column] > 0.55 else DARK
                text = f"{matrix[row, column]}"
                size = min(9, cell * 0.6 / max(1.4, 0.85 * len(text)))
                axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        labels = [f"{_short(name)}  {i}" for i, name in zip(ids, names, strict=True)]
        axes.set_yticks(range(count), labels, fontsize=7 if cell < 24 else 8.5)
        axes.set_xticks(range(count), [str(i) for i in ids], fontsize=6.5 if cell < 24 else 8.5)
        for label, total in zip(axes.get_yticklabels(), totals, strict=True):
            label.set_color(DARK if total else GREY)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=FAINT, linewidth=0.5)
        axes.tick_params(which="both", length=0, labeltop=True)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted class")
        _head(
            figure,
            f"{np.trace(matrix):,} of {totals.sum():,} right",
            "Blue: right. Red: wrong, with the number of photos.\n"
            "Colour: share of the true class (row), on a square-root scale.",
        )
        _save(figure, path)


def plot_reliability(
    confidence: Mapping[str, Floats],
    correct: Mapping[str, Bools],
    ece: Mapping[str, float],
    path: Path,
) -> None:
    """Save reliability diagrams with histograms, "before" and "after" the temperature."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1100 / UNIT, 640 / UNIT), dpi=DPI, layout="constrained")
        grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False)
        for column, when in enumerate(("before", "after")):
            colour = BLUE if when == "after" else GREY
            upper, lower = grid[:, column]
            place = np.clip((confidence[when] * BINS).astype(int), 0, BINS - 1)
            total = np.bincount(place, minlength=BINS)
            filled = total > 0
            right = np.bincount(place, correct[when].astype(float), BINS)[filled]
            mean = np.bincount(place, confidence[when], BINS)[filled] / total[filled]
            ends = map(wilson_interval, right.astype(int), total[filled])
            low, high = np.array(list(ends)).T
            share = right / total[filled]
            upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
            spread = np.maximum(0, [share - low, high - share])
            upper.errorbar(mean, share, spread, fmt="o", color=colour, markersize=5, elinewidth=1)
            upper.set_title(f"{when.capitalize()} temperature scaling: ECE {ece[when]:.4f}")
            upper.set(xlim=(0, 1.01), ylim=(-0.02, 1.02))
            lower.bar((np.arange(BINS) + 0.5) / BINS, total, width=0.9 / BINS, color=colour)
            lower.set_yscale("symlog", linthresh=1)
            lower.set_ylim(0, None)
            lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            lower.set_xlabel(f"confidence, {BINS} bins of equal width")
            upper.grid(alpha=0.7)
        grid[0, 0].set_ylabel("share of right answers, with 95 % interval")
        grid[1, 0].set_ylabel("photos")
        _save(figure, path)


def plot_ood(own: Floats, strange: Floats, threshold: float, path: Path) -> None:
    """Save the energy scores of own photos and of strangers, and where "unknown" begins."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1100 / UNIT, 360 / UNIT), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        low, high = min(own.min(), strange.min()), max(own.max(), strange.max())
        ends = np.linspace(low, high + 1e-6, 61).tolist()
        for values, colour, label in ((own, BLUE, "own"), (strange, RED, "strangers")):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, ends, weights=weights, color=colour, alpha=0.6, label=label)
        axes.axvline(threshold, color=DARK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(threshold, 1.01, "← unknown", ha="right", transform=axes.get_xaxis_transform())
        axes.set(xlabel="energy score", ylabel="share of the photos")
        axes.legend(loc="upper center")
        axes.grid(axis="y")
        _save(figure, path)


def plot_recall(classes: pd.DataFrame, path: Path) -> None:
    """Save each class's recall with its 95 % interval as horizontal bars."""
    classes = classes.sort_values("class_id")
    tested = classes["test"].to_numpy() > 0
    rows = np.arange(len(classes))
    recall, low, high = (
        np.nan_to_num(classes[name].to_numpy(float))
        for name in ("recall", "recall_low", "recall_high")
    )
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(
            (720, max(60, 17 * len(rows))), (_margin(classes["name"]), 110, 58, 36)
        )
        axes.barh(rows, recall, height=0.72, color=[MIDDLE if r >= 1 else LIGHT for r in recall])
        spread = np.maximum(0, [recall - low, high - recall])[:, tested]
        axes.errorbar(
            recall[tested],
            rows[tested],
            xerr=spread,
            fmt="none",
            ecolor=DARK,
            elinewidth=0.9,
            capsize=2,
        )
        for row, (test, right) in enumerate(zip(classes["test"], classes["correct"], strict=True)):
            text = f"{int(right):,} of {int(test):,}" if test else "not tested"
            colour = GREY if not test else DARK if right == test else RED
            axes.text(1.015, row, text, va="center", fontsize=7.5, color=colour)
        names = zip(classes["name"], classes["class_id"], strict=True)
        axes.set_yticks(rows, [f"{_short(name)}  {i}" for name, i in names], fontsize=7.5)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _head(
            figure,
            "Recall: share of each class’s test photos that were recognised",
            "Line: Wilson 95 % interval. Right: recognised of tested photos.",
        )
        _save(figure, path)


def plot_mistakes(rows: Sequence[tuple[Image, Image, str, str, float, str]], path: Path) -> None:
    """Save the gallery of mistakes as JPEG, the most confident first.

    Args:
        rows: RGB photo, what spoke for the answer in it (shown in its corner), true name,
            predicted name, confidence, file.
        path: the JPEG.
    """
    rows = sorted(rows, key=lambda row: -row[4])
    with matplotlib.rc_context(STYLE):
        if not rows:
            figure = Figure(figsize=(700 / UNIT, 90 / UNIT), dpi=DPI)
            figure.text(
                0.5, 0.5, "No mistake: every test photo was read right.", ha="center", va="center"
            )
            _save(figure, path)
            return
        captions = [_caption(*row[2:]) for row in rows]
        columns = min(GALLERY_COLUMNS, max(3, len(rows)))
        lines = max(map(len, captions))
        step = np.array([TILE + GALLERY_GAP, TILE + lines * LINE + GALLERY_GAP + 10])
        across, down = step * [columns, -(-len(rows) // columns)] + GALLERY_GAP
        figure = Figure(figsize=(across / UNIT, down / UNIT), dpi=DPI)
        side = TILE * DPI // UNIT
        for place, (row, caption) in enumerate(zip(rows, captions, strict=True)):
            left, top = step * [place % columns, place // columns] + GALLERY_GAP
            corner = np.array([left, down - top - TILE]) * DPI / UNIT
            picture = _fit(row[0], side)
            inset = side * 2 // 5
            picture[-inset - 4 :, -inset - 4 :] = 255
            picture[-inset:, -inset:] = _fit(row[1], inset)
            figure.figimage(picture, *corner)
            for line, (text, colour, weight) in enumerate(caption):
                y = 1 - (top + TILE + 12 + line * LINE) / down
                figure.text(
                    left / across, y, text, color=colour, weight=weight, fontsize=7.5, va="center"
                )
        _save(figure, path)


def plot_corruptions(
    photo: Image, variants: Sequence[Image], table: pd.DataFrame, path: Path
) -> None:
    """Save how bad conditions look and what they cost: a row for each kind, a column a level.

    Args:
        photo: RGB, as it is.
        variants: the same in each of the conditions of `table`.
        table: columns corruption, level and accuracy, kinds outermost.
        path: the JPEG.
    """
    kinds = table["corruption"].unique()
    levels = len(table) // len(kinds)
    tile, gap, left, top = 84, 10, 130, 60
    step = np.array([tile + gap, tile + LINE + gap])
    across, down = step * [levels + 1, len(kinds)] + [left, top]
    side = tile * DPI // UNIT
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(across / UNIT, down / UNIT), dpi=DPI)

        def show(image: Image, row: int, column: int, text: str, colour: str) -> None:
            x, y = step * [column, row] + [left, top]
            figure.figimage(_fit(image, side), *(np.array([x, down - y - tile]) * DPI / UNIT))
            place = (x + tile / 2) / across, 1 - (y + tile + 9) / down
            figure.text(*place, text, ha="center", va="center", color=colour)

        accuracies = table["accuracy"].to_numpy().reshape(len(kinds), levels)
        for row, kind in enumerate(kinds):
            middle = 1 - (row * step[1] + top + tile / 2) / down
            figure.text((left - 12) / across, middle, kind, ha="right", va="center")
            show(photo, row, 0, "as it is", QUIET)
            for column, accuracy in enumerate(accuracies[row]):
                colour = RED if accuracy < 0.5 else DARK
                text = f"{100 * accuracy:.0f} %"
                show(variants[row * levels + column], row, column + 1, text, colour)
        _head(
            figure,
            f"In bad conditions {100 * accuracies.mean():.1f} % are read right",
            f"Accuracy on {table['photos'].iloc[0]:,} test photos in each of "
            f"{len(table)} conditions, mild to severe. Shown: one of the photos.",
        )
        _save(figure, path)


def plot_curves(curves: pd.DataFrame, path: Path) -> None:
    """Save the training curves: loss, accuracy and learning rate by epoch."""
    epoch = curves["epoch"].to_numpy()
    best = int(curves["validation_loss"].fillna(np.inf).to_numpy(float).argmin())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1100 / UNIT, 360 / UNIT), dpi=DPI, layout="constrained")
        panels = figure.subplots(1, 3, width_ratios=[3, 3, 2])
        for axes, what in zip(panels, ("loss", "accuracy"), strict=False):
            for part, colour in (("train", GREY), ("validation", BLUE)):
                values = curves[f"{part}_{what}"].to_numpy(float)
                axes.plot(epoch, values, color=colour, marker="o", markersize=3, label=part)
            axes.plot(epoch[best], values[best], "o", color=BLUE, markersize=8, fillstyle="none")
            axes.set_title(what.capitalize())
        panels[0].legend(loc="upper right")
        panels[0].set_ylim(0, None)
        # The first epochs would squeeze what matters into a thin line.
        settled = curves[["train_accuracy", "validation_accuracy"]].iloc[len(curves) // 4 :]
        lowest = float(settled.min().min())
        panels[1].set_ylim(np.floor(20 * lowest - 0.5) / 20 if lowest > 0.05 else 0, 1.005)
        panels[1].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        accuracy = 100 * curves["validation_accuracy"].iloc[best]
        panels[0].set_title(f"Loss: least in epoch {epoch[best]}")
        panels[1].set_title(f"Accuracy: {accuracy:.2f} % in that epoch")
        panels[2].plot(epoch, curves["learning_rate"], color=GREY, marker="o", markersize=3)
        panels[2].set_title("Learning rate")
        panels[2].set_ylim(0, None)
        for axes in panels:
            axes.axvline(epoch[best], color=BLUE, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.set_xlim(epoch[0] - 0.5, epoch[-1] + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set_xlabel("epoch")
            axes.grid(axis="y")
        _save(figure, path)


def _canvas(inner: tuple[int, int], margins: tuple[int, int, int, int]) -> tuple[Figure, Axes]:
    """A figure around axes of a given width and height; margins: left, right, top, bottom."""
    (width, height), (left, right, top, bottom) = inner, margins
    across, down = left + width + right, top + height + bottom
    figure = Figure(figsize=(across / UNIT, down / UNIT), dpi=DPI)
    place = (left / across, bottom / down, width / across, height / down)
    return figure, figure.add_axes(place)


def _margin(names: Iterable[str]) -> int:
    """Room for the longest name and a class number."""
    return 48 + round(6.2 * max(len(_short(name)) for name in names))


def _head(figure: Figure, title: str, explanation: str) -> None:
    height = figure.get_figheight() * UNIT
    figure.text(0.012, 1 - 8 / height, title, va="top", fontsize=10, weight="bold")
    figure.text(0.012, 1 - 27 / height, explanation, va="top", fontsize=7.5, color=QUIET)


def _caption(true: str, predicted: str, confidence: float, file: str) -> list[tuple[str, str, str]]:
    """Lines below a mistake: text, colour, weight."""
    answer = f"read: {predicted}, {100 * confidence:.1f} %"
    read = textwrap.wrap(answer, 29, max_lines=3, placeholder=" …")
    really = textwrap.wrap(f"true: {true}", 32, max_lines=2, placeholder=" …")
    name = file if len(file) <= 30 else "…" + file[-29:]
    lines = [(line, RED, "bold") for line in read] + [(line, DARK, "normal") for line in really]
    return [*lines, (name, GREY, "normal")]


def _fit(photo: Image, side: int) -> Image:
    """Enlarge or shrink a photo into a square, its proportions kept."""
    height, width = photo.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(photo, size, interpolation=method)
    square = np.full((side, side, 3), 240, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = resized.reshape(size[1], size[0], -1)
    return square


def _short(text: str) -> str:
    return text if len(text) <= 42 else text[:41] + "…"


def _save(figure: Figure, path: Path) -> None:
    """Save as PNG or JPEG, by the suffix."""
    raw = io.BytesIO()
    figure.savefig(raw, format="rgba")
    width, height = figure.canvas.get_width_height()
    rgba = np.frombuffer(raw.getvalue(), np.uint8).reshape(height, width, 4)
    # Flat colours compress best unfiltered: a quarter smaller than what Matplotlib writes.
    unfiltered = [
        cv2.IMWRITE_PNG_COMPRESSION,
        9,
        cv2.IMWRITE_PNG_FILTER,
        cv2.IMWRITE_PNG_FILTER_NONE,
    ]
    options = unfiltered if path.suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 85]
    path.write_bytes(cv2.imencode(path.suffix, rgba[:, :, 2::-1], options)[1].tobytes())
