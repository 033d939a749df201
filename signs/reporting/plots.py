"""Diagrams of what a classifier learned and where it fails; same input, same bytes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from signs.evaluation.calibration import ECE_BINS as BINS
from signs.evaluation.calibration import Bools, Floats, Ints, wilson_interval
from signs.reporting import style
from signs.reporting.style import BLUE, DARK, FAINT, GREY, LIGHT, MIDDLE, RED

DASHED = (0, (4, 3))


def plot_confusion(
    true: Ints, predicted: Ints, names: Sequence[str], ids: Sequence[int], path: Path
) -> None:
    """Save the confusion matrix: shares of each row as colour, counts of errors as numbers.

    Args:
        true: label of each photo, a position in `names`.
        predicted: the classifier's label of each photo.
        names: of all classes.
        ids: the data set's numbers of the classes.
        path: the PNG.
    """
    count = len(names)
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (true, predicted), 1)
    totals = matrix.sum(axis=1)
    # A square root with an offset: one error in a thousand is still seen.
    strength = np.sqrt(matrix / np.maximum(1, totals)[:, None])
    strength = np.where(matrix > 0, 0.15 + 0.85 * strength, 0)
    hue = np.where(np.eye(count, dtype=bool)[..., None], to_rgb(BLUE), to_rgb(RED))
    cell = int(np.clip(700 / count, 16, 70))
    side, left = count * cell, _margin(names)
    with matplotlib.rc_context(style.STYLE):
        figure, axes = _canvas((side, side), (left, max(20, 480 - left - side), 74, 36))
        axes.imshow(1 - strength[..., None] * (1 - hue), interpolation="nearest", aspect="auto")
        for row, column in np.argwhere(matrix):
            if row != column or count <= 20:
                colour = "white" if strength[row, column] > 0.55 else DARK
                text = f"{matrix[row, column]}"
                size = min(9, cell * 0.6 / max(1.4, 0.85 * len(text)))
                axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        labels = [f"{style.short(name)}  {i}" for i, name in zip(ids, names, strict=True)]
        axes.set_yticks(range(count), labels, fontsize=7 if cell < 24 else 8.5)
        axes.set_xticks(range(count), [str(i) for i in ids], fontsize=6.5 if cell < 24 else 8.5)
        for label, total in zip(axes.get_yticklabels(), totals, strict=True):
            label.set_color(DARK if total else GREY)
        _between_cells(axes, count)
        style.head(
            figure,
            f"{np.trace(matrix):,} of {totals.sum():,} right",
            "Blue: right. Red: wrong, with the number of photos.\n"
            "Colour: share of the true class (row), on a square-root scale.",
        )
        style.save(figure, path)


def _between_cells(axes: Axes, count: int) -> None:
    """Lines between the cells of a matrix, and what else its axes need."""
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=0.5)
    axes.tick_params(which="both", length=0, labeltop=True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")


def plot_reliability(
    before: Floats, after: Floats, correct: Bools, ece: tuple[float, float], path: Path
) -> None:
    """Save reliability diagrams with histograms.

    Args:
        before: (N,) confidences before temperature scaling.
        after: (N,) confidences after it.
        correct: (N,) whether each prediction is right.
        ece: expected calibration errors before and after.
        path: the PNG.
    """
    with matplotlib.rc_context(style.STYLE):
        figure = style.figure(1100, 640, "constrained")
        grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False)
        for panels, when, colour, confidence, error in zip(
            grid.T, ("Before", "After"), (GREY, BLUE), (before, after), ece, strict=True
        ):
            panels[0].set_title(f"{when} temperature scaling: ECE {error:.4f}")
            _reliability(panels[0], panels[1], confidence, correct, colour)
        grid[0, 0].set_ylabel("share of right answers, with 95 % interval")
        grid[1, 0].set_ylabel("photos")
        style.save(figure, path)


def _reliability(upper: Axes, lower: Axes, confidence: Floats, correct: Bools, colour: str) -> None:
    place = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    total = np.bincount(place, minlength=BINS)
    filled = total > 0
    right = np.bincount(place, correct.astype(float), BINS)[filled]
    mean = np.bincount(place, confidence, BINS)[filled] / total[filled]
    ends = map(wilson_interval, right.astype(int), total[filled])
    low, high = np.array(list(ends)).T
    share = right / total[filled]
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHED)
    spread = np.maximum(0, [share - low, high - share])
    upper.errorbar(mean, share, spread, fmt="o", color=colour, markersize=5, elinewidth=1)
    upper.set(xlim=(0, 1.01), ylim=(-0.02, 1.02))
    upper.grid(alpha=0.7)
    lower.bar((np.arange(BINS) + 0.5) / BINS, total, width=0.9 / BINS, color=colour)
    lower.set_yscale("symlog", linthresh=1)
    lower.set_ylim(0, None)
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lower.set_xlabel(f"confidence, {BINS} bins of equal width")


def plot_ood(test: Floats, ood: Floats, threshold: float, path: Path) -> None:
    """Save histograms of energy scores, and the threshold below which a photo is "unknown"."""
    with matplotlib.rc_context(style.STYLE):
        figure = style.figure(1100, 360, "constrained")
        axes = figure.subplots()
        low, high = min(test.min(), ood.min()), max(test.max(), ood.max())
        ends = np.linspace(low, high + 1e-6, 61).tolist()
        for values, colour, label in ((test, BLUE, "test photos"), (ood, RED, "OOD photos")):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, ends, weights=weights, color=colour, alpha=0.6, label=label)
        axes.axvline(threshold, color=DARK, linewidth=1, linestyle=DASHED)
        axes.text(threshold, 1.01, "← unknown", ha="right", transform=axes.get_xaxis_transform())
        axes.set(xlabel="energy score", ylabel="share of the photos")
        axes.legend(loc="upper center")
        axes.grid(axis="y")
        style.save(figure, path)


def plot_recall(classes: pd.DataFrame, path: Path) -> None:
    """Save each class's recall with its 95 % interval as horizontal bars.

    Args:
        classes: class_id, name, test, correct, recall, recall_low and recall_high.
        path: the PNG.
    """
    classes = classes.sort_values("class_id")
    tested = classes["test"].to_numpy() > 0
    rows = np.arange(len(classes))
    columns = classes[["recall", "recall_low", "recall_high"]].to_numpy(float).T
    recall, low, high = np.nan_to_num(columns)
    with matplotlib.rc_context(style.STYLE):
        figure, axes = _canvas(
            (720, max(60, 17 * len(rows))), (_margin(classes["name"]), 110, 58, 36)
        )
        axes.barh(rows, recall, height=0.72, color=[MIDDLE if r >= 1 else LIGHT for r in recall])
        spread = np.maximum(0, [recall - low, high - recall])[:, tested]
        axes.errorbar(
            *(recall[tested], rows[tested], None, spread),
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
        axes.set_yticks(rows, [f"{style.short(name)}  {i}" for name, i in names], fontsize=7.5)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        style.head(
            figure,
            "Recall: share of each class’s test photos that were recognised",
            "Line: Wilson 95 % interval. Right: recognised of tested photos.",
        )
        style.save(figure, path)


def plot_curves(curves: pd.DataFrame, path: Path) -> None:
    """Save the training curves.

    Args:
        curves: train_loss, train_accuracy, validation_loss, validation_accuracy and
            learning_rate, one row an epoch.
        path: the PNG.
    """
    epoch = np.arange(1, len(curves) + 1)
    best = int(curves["validation_loss"].fillna(np.inf).to_numpy(float).argmin())
    with matplotlib.rc_context(style.STYLE):
        figure = style.figure(1100, 360, "constrained")
        panels = figure.subplots(1, 3, width_ratios=[3, 3, 2])
        for axes, what in zip(panels, ("loss", "accuracy"), strict=False):
            for part, colour in (("train", GREY), ("validation", BLUE)):
                values = curves[f"{part}_{what}"].to_numpy(float)
                axes.plot(epoch, values, color=colour, marker="o", markersize=3, label=part)
            axes.plot(epoch[best], values[best], "o", color=BLUE, markersize=8, fillstyle="none")
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
        style.save(figure, path)


def _canvas(inner: tuple[int, int], margins: tuple[int, int, int, int]) -> tuple[Figure, Axes]:
    """A figure around axes of a given width and height; margins: left, right, top, bottom."""
    (width, height), (left, right, top, bottom) = inner, margins
    across, down = left + width + right, top + height + bottom
    figure = style.figure(across, down)
    place = (left / across, bottom / down, width / across, height / down)
    return figure, figure.add_axes(place)


def _margin(names: Iterable[str]) -> int:
    """Room for the longest name and a class number."""
    return 48 + round(style.LETTER * max(len(style.short(name)) for name in names))
