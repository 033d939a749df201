"""Write the classifier in other formats, and say what each of them keeps of it.

    signs export                                   all formats whose runtime is installed
    signs export --format litert-int8              one of them (again: several)
    signs export --format openvino --to build      into another folder

onnx         for ONNX Runtime, onnxruntime-web (browsers), OpenCV's dnn and many more
onnx-int8    the same with 8-bit integers: a quarter of the size, twice as fast on processors
             with VNNI; `signs predict --classifier exports/onnx-int8` and the service take it
litert       for LiteRT (TensorFlow Lite): Android, iOS, microcontrollers
litert-int8  the same with 8-bit weights
openvino     for Intel's processors and their graphics

Compares each with the classifier on test photos; photos of the training set calibrate onnx-int8.
LiteRT and OpenVINO need `make setup-dev`. docs/exports.md explains how to use the files.
"""

import argparse
from pathlib import Path

from signs import paths
from signs.data import arrays, splits
from signs.errors import UserError
from signs.exports import comparison, formats
from signs.inference.classifier import Classifier
from signs.training.quantize import calibration

TEST_IMAGES = 5000
COLUMNS = {
    "accuracy": "{:.2%}",
    "ece": "{:.4f}",
    "accepted": "{:.2%}",
    "same_predictions": "{:.2%}",
    "max_difference": "{:.1g}",
    "images_per_second_1": "{:,.0f}",
    "images_per_second_16": "{:,.0f}",
    "megabytes": "{:.2f}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--format", action="append", choices=formats.FORMATS)
    parser.add_argument(
        "--to", type=Path, default=Path("exports"), metavar="FOLDER", help="default: exports"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write one folder a format, and print the comparison."""
    chosen = arguments.format or formats.runnable()
    data, original = arrays.load(), Classifier(threads=1)
    if original.metadata.provenance["data"] != data.digest:
        raise UserError(
            f"{paths.CLASSIFIER} was trained on other photos than {paths.PREPARED} holds. "
            "Run `dvc repro`."
        )
    models = paths.CLASSIFIER, paths.FLOAT_MODEL, paths.KERAS_MODEL
    source = formats.Source(*models, calibration(data))
    for name in chosen:
        formats.export(source, name, arguments.to / name)
        print(arguments.to / name, flush=True)
    rows = data.some_rows(splits.TEST, TEST_IMAGES)
    table = comparison.compare(
        original,
        {name: arguments.to / name for name in chosen},
        data.samples.iloc[rows],
        data.images[rows],
    )
    for column, shown in COLUMNS.items():
        table[column] = table[column].map(shown.format)
    print(f"\n{len(rows):,} test photos, one thread:\n")
    print(table[list(COLUMNS)].T.to_string())
    return 0
