"""All pictures of a run, from the tables that the other stages wrote and the photos themselves."""

from pathlib import Path
from textwrap import wrap

import numpy as np
import pandas as pd

from signs import paths
from signs.data import arrays, layouts
from signs.data.images import Image, crop, decode
from signs.evaluation import corruptions
from signs.inference.classifier import Metadata
from signs.inference.heatmap import overlay
from signs.reporting import pages, plots, style
from signs.reporting.grids import Line, Row, Tile, fit, pixels, plot_grid, rows_of, strip
from signs.reporting.results import Json, read_json, read_table
from signs.reporting.style import DARK, GREY, QUIET, RED
from signs.synthesis import svg

CURVES = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy", "learning_rate")
MISTAKE, EXAMPLE, DUPLICATE, SAMPLE = 186, 84, 44, 32  # sides of tiles, in units
SURROUNDINGS = 0.3  # share of a sign's sides that is shown around it
SAMPLES = 6  # synthetic photos of each class


def write(metadata: Metadata, folder: Path) -> None:
    """Write the pictures of the run in the working directory; what was not measured has none."""
    predictions = read_table(paths.PREDICTIONS)
    test = predictions[predictions["split"] == "test"]
    details = read_json(paths.EVALUATE_METRICS / "details.json")
    _diagrams(test, details, metadata, folder)
    data = arrays.load()
    reader = layouts.Reader(paths.DATA / data.dataset)
    _mistakes(test, data, reader, folder / "mistakes.jpg")
    if "corruption_example" in details:
        example = data.samples[data.samples["file"] == details["corruption_example"]][:1]
        _corruptions(example, reader, folder / "corruptions.jpg")
    _duplicates(data.dataset, reader, folder / "duplicates.jpg")
    if data.dataset == "synthetic":
        _contact_sheet(data, reader, folder / "contact_sheet.png")


def _diagrams(test: pd.DataFrame, details: Json, metadata: Metadata, folder: Path) -> None:
    tables = paths.TRAIN_METRICS / "plots/metrics"
    curves = {c: pd.read_csv(tables / f"{c}.tsv", sep="\t").iloc[:, -1] for c in CURVES}
    plots.plot_curves(pd.DataFrame(curves), folder / "curves.png")
    labels = test["label"].to_numpy(), test["predicted_label"].to_numpy()
    classes = metadata.names, metadata.class_ids
    plots.plot_confusion(*labels, *classes, folder / "confusion.png")
    plots.plot_recall(read_table(paths.EVALUATE_METRICS / "classes.csv"), folder / "recall.png")
    confidence = test["uncalibrated_confidence"].to_numpy(), test["confidence"].to_numpy()
    ece = details["test"]["ece_uncalibrated"], details["test"]["ece"]
    correct = test["correct"].to_numpy()
    plots.plot_reliability(*confidence, correct, ece, folder / "reliability.png")
    if len(ood := read_table(paths.OOD_PREDICTIONS)):
        energies = test["energy"].to_numpy(), ood["energy"].to_numpy()
        plots.plot_ood(*energies, metadata.energy_threshold, folder / "ood.png")


def _mistakes(
    test: pd.DataFrame, data: arrays.Prepared, reader: layouts.Reader, path: Path
) -> None:
    """The wrong predictions of the highest confidence, and what led to them."""
    names, side = data.labels["Name"], pixels(MISTAKE)
    wrong = test[~test["correct"]].sort_values("confidence", ascending=False, kind="stable")
    # The predictions are of these samples, in their order; a photo may have several signs.
    held_out = data.samples.index[data.samples["split"].isin(["validation", "test"])]
    rows = held_out[wrong.index]
    maps, small, tiles = np.load(paths.SALIENCY), side * 2 // 5, []
    for mistake, row, importance in zip(wrong.to_dict("records"), rows, maps, strict=False):
        photo = fit(_sign(reader, data.samples.loc[row]), side, side)
        photo[-small - 4 :, -small - 4 :] = 255
        photo[-small:, -small:] = fit(overlay(data.images[row], importance), small, small)
        read = f"{names[mistake['predicted_label']]}, {pages.percent(mistake['confidence'], 1)}"
        tiles.append(Tile(photo, _caption(read, names[mistake["label"]], mistake["file"])))
    head = ["" if tiles else "No mistake: every test photo was read right.", ""]
    plot_grid(rows_of(tiles, 6), path, (MISTAKE, MISTAKE), 14, head)


def _sign(reader: layouts.Reader, sample: pd.Series) -> Image:
    """The sign of a sample, with what surrounds it."""
    (region,) = layouts.regions(sample.to_frame().T)
    return crop(decode(reader.read(sample["file"])), region, SURROUNDINGS)


def _caption(read: str, true: str, file: str) -> list[Line]:
    """The lines below a mistake: what was predicted, what is true, the file."""
    return [
        *(Line(x, RED, "bold") for x in wrap(f"read: {read}", 29, max_lines=3, placeholder=" …")),
        *(Line(x) for x in wrap(f"true: {true}", 32, max_lines=2, placeholder=" …")),
        Line(file if len(file) <= 30 else "…" + file[-29:], GREY),
    ]


def _corruptions(example: pd.DataFrame, reader: layouts.Reader, path: Path) -> None:
    """How each corruption looks, and the accuracy with it: a row a kind, a column a level."""
    table = read_table(paths.EVALUATE_METRICS / "corruptions.csv")
    photo = corruptions.shrink(decode(reader.read(example["file"].iloc[0])))
    variants = iter(corruptions.all_variants(photo, 0, layouts.regions(example)[0]))
    rows = []
    for kind, accuracies in table.groupby("corruption", sort=False)["accuracy"]:
        tiles = [Tile(photo, [Line("as it is", QUIET)])]
        for accuracy in accuracies:
            line = Line(f"{100 * accuracy:.0f} %", RED if accuracy < 0.5 else DARK)
            tiles.append(Tile(next(variants), [line]))
        rows.append(Row(tiles, str(kind)))
    head = (
        f"In bad conditions {100 * table['accuracy'].mean():.1f} % are read right",
        f"Accuracy on {table['photos'].iloc[0]:,} test photos in each of {len(table)} "
        "conditions, mild to severe. Shown: one of the photos.",
    )
    plot_grid(rows, path, (EXAMPLE, EXAMPLE), 10, head)


def _duplicates(dataset: str, reader: layouts.Reader, path: Path) -> None:
    """The largest groups of photos that stay together."""
    table = read_table(paths.PREPROCESS_METRICS / "duplicates.csv")
    rows = []
    for _, group in table.groupby("group", sort=False):
        first = group.iloc[0]
        title = f"{first['name'][:38]}\n{first['files']} files, {first['distinct']} distinct"
        rows.append(Row([Tile(decode(reader.read(file))) for file in group["file"]], title))
    title = "the largest groups of photos that stay together" if rows else "no duplicates"
    plot_grid(rows, path, (DUPLICATE, DUPLICATE), 4, (f"{dataset}: {title}", ""))


def _contact_sheet(data: arrays.Prepared, reader: layouts.Reader, path: Path) -> None:
    """The template of each synthetic class beside its first photos, with id and name."""
    templates = svg.templates_of(svg.label_set(data.dataset))
    tiles = []
    for class_id, name in zip(data.labels["ClassId"], data.labels["Name"], strict=True):
        template = svg.rasterize(templates[class_id][0], pixels(SAMPLE))
        alpha = template[:, :, 3:] / 255
        on_white = (template[:, :, 2::-1] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        samples = data.samples[data.samples["class_id"] == class_id][:SAMPLES]
        photos = [_sign(reader, sample) for _, sample in samples.iterrows()]
        # 16 levels a colour look the same in less than half the bytes, which git keeps.
        sample = strip([on_white, *photos], SAMPLE, 2) | np.uint8(0b1111)
        tiles.append(Tile(sample, [Line(f"{class_id}  {style.short(name)}")]))
    width = SAMPLE + SAMPLES * (SAMPLE + 2)
    plot_grid(rows_of(tiles, 3), path, (width, SAMPLE), 10)
