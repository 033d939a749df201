"""Export the classifiers of results.yaml in all formats and write docs/exports.md.

    make exports                    of the results' experiments that are in this clone
    make exports ARGS=--table       only the page, from the rows that exist

Each format is measured on the test photos of each seed, beside the ONNX file of floats.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import DVCFileSystem

from benchmarks import results, runs
from signs import machine, paths
from signs.commands import git
from signs.data import arrays, splits
from signs.errors import run_stage
from signs.exports import comparison, formats
from signs.inference.classifier import Classifier
from signs.training.quantize import calibration

ORIGINAL = "onnx"


def page() -> runs.Page:
    """A row for each format of each of the results that exports.yaml names."""
    of_results = results.page().experiments
    chosen = {
        f"{name}, {form}": of_results[title]
        for name, title in runs.listed("exports").items()
        for form in formats.FORMATS
    }

    def cells(title: str, references: list[str]) -> dict[str, str]:
        form = title.rpartition(", ")[2]
        return _cells(pd.DataFrame([_measure(each, form) for each in references]))

    return runs.Page("exports", "evaluate", chosen, cells, {})


def _measure(reference: str, form: str) -> dict[str, Any]:
    """How a format of one experiment's classifier compares with its ONNX file of floats."""
    table = _table(reference)
    before, after = table.loc[ORIGINAL], table.loc[form]
    rates = [f"images_per_second_{batch}" for batch in comparison.BATCHES_TIMED]
    return {
        **{str(key): value for key, value in after.items()},
        "lost": before["accuracy"] - after["accuracy"],
        **{f"faster_{rate}": after[rate] / before[rate] for rate in rates},
        "commit": runs.commit(reference),
    }


@cache
def _table(reference: str) -> pd.DataFrame:
    """All formats of one experiment's classifier, compared."""
    with fetched(reference) as folder:
        data = arrays.load(folder / paths.PREPARED)
        test = data.rows(splits.TEST)
        models = folder / paths.FLOAT_MODEL, folder / paths.KERAS_MODEL
        source = formats.Source(folder / paths.CLASSIFIER, *models, calibration(data))
        exports = {name: folder / name for name in formats.FORMATS}
        for name, target in exports.items():
            formats.export(source, name, target)
        original = Classifier(exports[ORIGINAL], 1)
        return comparison.compare(original, exports, data.samples.iloc[test], data.images[test])


@contextmanager
def fetched(reference: str) -> Iterator[Path]:
    """A folder with the models and the prepared photos of an experiment."""
    experiment = DVCFileSystem(rev=git("rev-parse", reference))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (paths.CLASSIFIER, paths.FLOAT_MODEL, paths.KERAS_MODEL, paths.PREPARED):
            (folder / path).parent.mkdir(exist_ok=True)
            experiment.get(path.as_posix(), str(folder / path), recursive=True)
        yield folder


def _cells(found: pd.DataFrame) -> dict[str, str]:
    def spread(key: str, pattern: str) -> str:
        texts = [pattern.format(found[key].mean())]
        if len(found) > 1:
            texts.append(pattern.format(found[key].std()))
        return " ± ".join(texts)

    return {
        "accuracy": spread("accuracy", "{:.2%}"),
        "lost": spread("lost", "{:.2%}"),
        "ECE": spread("ece", "{:.4f}"),
        "accepted": spread("accepted", "{:.1%}"),
        "same predictions": spread("same_predictions", "{:.2%}"),
        "largest change": f"{found['max_difference'].max():.0e}",
        "speed, batch 1": f"{found['faster_images_per_second_1'].median():.2f}",
        "speed, batch 16": f"{found['faster_images_per_second_16'].median():.2f}",
        "MB": f"{found['megabytes'].mean():.2f}",
        "seeds": str(len(found)),
        "commit": ", ".join(sorted(found["commit"].unique())),
        "processor": machine.processor(),
    }


if __name__ == "__main__":
    run_stage(lambda: page().make(str(__doc__)))
