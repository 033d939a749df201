"""Diagrams of what a classifier learned and where it fails; same input, same bytes."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from signs.evaluation.calibration import ECE_BINS as BINS
from signs.evaluation.intervals import FEW_GROUPS, Bools, Floats, Ints, wilson
from signs.reporting import style
from signs.reporting.style import BLUE, DARK, FAINT, GREY, LIGHT, MIDDLE, RED

DASHED = (0, (4, 3))


def plot_confusion(
    true: Ints, predicted: Ints, names: Sequence[str], ids: Sequence[int], path: Path
) -> None:
    """Save the confusion matrix: shares of each row as colour, counts of errors as numbers.

    Labels are positions in `names` and `ids`, which are the data set's numbers of the classes.
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
    margins = left, max(20, 480 - left - side), 74, 36
    with _canvas(path, (side, side), margins) as (figure, axes):
        axes.imshow(1 - strength[..., None] * (1 - hue), interpolation="nearest", aspect="auto")
        for row, column in np.argwhere(matrix):
            if row != column or count <= 20:
                colour = "white" if strength[row, column] > 0.55 else DARK
                text = f"{matrix[row, column]}"
                size = min(9, cell * 0.6 / max(1.4, 0.85 * len(text)))
                axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        axes.set_yticks(range(count), _labels(names, ids), fontsize=7 if cell < 24 else 8.5)
        axes.set_xticks(range(count), [str(i) for i in ids], fontsize=6.5 if cell < 24 else 8.5)
        for label, total in zip(axes.get_yticklabels(), totals, strict=True):
            label.set_color(DARK if total else GREY)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=FAINT, linewidth=0.5)
        axes.tick_params(which="both", length=0, labeltop=True)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted class")
        style.head(
            figure,
            f"{np.trace(matrix):,} of {totals.sum():,} right",
            "Blue: right. Red: wrong, with the number of photos.\n"
            "Colour: share of the true class (row), on a square-root scale.",
        )


def plot_reliability(
    before: Floats, after: Floats, correct: Bools, ece: tuple[float, float], path: Path
) -> None:
    """Save reliability diagrams with histograms, before and after temperature scaling.

    Confidences and whether each prediction is right are (N,); ece: expected calibration errors.
    """
    with style.saved(path, 1100, 640, "constrained") as figure:
        grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False)
        for panels, when, colour, confidence, error in zip(
            grid.T, ("Before", "After"), (GREY, BLUE), (before, after), ece, strict=True
        ):
            panels[0].set_title(f"{when} temperature scaling: ECE {error:.4f}")
            _reliability(panels[0], panels[1], confidence, correct, colour)
        grid[0, 0].set_ylabel("share of right answers, 95 % interval by photo")
        grid[1, 0].set_ylabel("photos")


def _reliability(upper: Axes, lower: Axes, confidence: Floats, correct: Bools, colour: str) -> None:
    place = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    total = np.bincount(place, minlength=BINS)
    filled = total > 0
    right = np.bincount(place[correct], minlength=BINS)[filled]
    mean = np.bincount(place, confidence, BINS)[filled] / total[filled]
    low, high = np.array(list(map(wilson, right, total[filled]))).T
    share = right / total[filled]
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHED)
    spread = np.maximum(0, [share - low, high - share])
    upper.errorbar(mean, share, spread, fmt="o", color=colour, markersize=5, elinewidth=1)
    upper.set(xlim=(0, 1.01), ylim=(-0.02, 1.02))
    upper.grid(alpha=0.7)
    lower.bar((np.arange(BINS) + 0.5) / BINS, total, width=0.9 / BINS, color=colour)
    lower.set_yscale("symlog", linthresh=1)
    lower.set(ylim=(0, None), xlabel=f"confidence, {BINS} bins of equal width")
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def plot_ood(test: Floats, ood: Floats, threshold: float, path: Path) -> None:
    """Save histograms of energy scores, and the threshold below which a photo is "unknown"."""
    with style.saved(path, 1100, 360, "constrained") as figure:
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


def plot_recall(classes: pd.DataFrame, path: Path) -> None:
    """Save each class's recall with its 95 % interval as horizontal bars.

    Columns: class_id, name, test, test_groups, correct, recall, recall_low and recall_high.
    """
    classes = classes.sort_values("class_id")
    tested = classes["test"].to_numpy() > 0
    rows = np.arange(len(classes))
    columns = classes[["recall", "recall_low", "recall_high"]].to_numpy(float).T
    recall, low, high = np.nan_to_num(columns)
    size, margins = (720, max(60, 17 * len(rows))), (_margin(classes["name"]), 130, 58, 36)
    with _canvas(path, size, margins) as (figure, axes):
        axes.barh(rows, recall, height=0.72, color=[MIDDLE if r >= 1 else LIGHT for r in recall])
        spread = np.maximum(0, [recall - low, high - recall])[:, tested]
        middles = recall[tested], rows[tested]
        axes.errorbar(*middles, None, spread, "none", ecolor=DARK, elinewidth=0.9, capsize=2)
        counts = classes[["test", "test_groups", "correct"]].to_numpy(int)
        for row, (test, groups, right) in enumerate(counts):
            text = f"{right:,} of {test:,}" if test else "not tested"
            if 0 < groups < FEW_GROUPS < test:
                text += f" in {groups} group{'s' if groups > 1 else ''}"
            colour = GREY if not test else DARK if right == test else RED
            axes.text(1.015, row, text, va="center", fontsize=7.5, color=colour)
        axes.set_yticks(rows, _labels(classes["name"], classes["class_id"]), fontsize=7.5)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        style.head(
            figure,
            "Recall: share of each class’s test photos that were recognised",
            "Line: 95 % interval, by groups of photos. Right: recognised of tested photos.",
        )


def plot_curves(curves: pd.DataFrame, path: Path) -> None:
    """Save the training curves: one row an epoch, columns as `pictures.CURVES` names them."""
    epoch = np.arange(1, len(curves) + 1)
    with style.saved(path, 1100, 360, "constrained") as figure:
        panels = figure.subplots(1, 3, width_ratios=[3, 3, 2])
        for axes, what in zip(panels, ("loss", "accuracy"), strict=False):
            for part, colour in (("train", GREY), ("validation", BLUE)):
                values = curves[f"{part}/{what}"].to_numpy(float)
                axes.plot(epoch, values, color=colour, marker="o", markersize=3, label=part)
        panels[0].legend(loc="upper right")
        panels[0].set(
            title=f"Loss: {curves['validation/loss'].iloc[-1]:.4f} at the end", ylim=(0, None)
        )
        # The first epochs would squeeze what matters into a thin line.
        settled = curves[["train/accuracy", "validation/accuracy"]].iloc[len(curves) // 4 :]
        lowest = float(settled.min().min())
        bottom = np.floor(20 * lowest - 0.5) / 20 if lowest > 0.05 else 0
        accuracy = 100 * curves["validation/accuracy"].iloc[-1]
        panels[1].set(title=f"Accuracy: {accuracy:.2f} % at the end", ylim=(bottom, 1.005))
        panels[1].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        panels[2].plot(epoch, curves["learning_rate"], color=GREY, marker="o", markersize=3)
        panels[2].set(title="Learning rate", ylim=(0, None))
        for axes in panels:
            axes.set(xlim=(epoch[0] - 0.5, epoch[-1] + 0.5), xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(axis="y")


@contextmanager
def _canvas(
    path: Path, inner: tuple[int, int], margins: tuple[int, int, int, int]
) -> Iterator[tuple[Figure, Axes]]:
    """A figure around axes of a given width and height; margins: left, right, top, bottom."""
    (width, height), (left, right, top, bottom) = inner, margins
    across, down = left + width + right, top + height + bottom
    with style.saved(path, across, down) as figure:
        place = (left / across, bottom / down, width / across, height / down)
        yield figure, figure.add_axes(place)


def _margin(names: Iterable[str]) -> int:
    """Room for the longest name and a class number."""
    return 48 + round(style.LETTER * max(len(style.short(name)) for name in names))


def _labels(names: Iterable[str], ids: Iterable[int]) -> list[str]:
    return [f"{style.short(name)}  {i}" for name, i in zip(names, ids, strict=True)]
