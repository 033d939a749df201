"""Write pretrained/, the released classifiers, from the experiments behind docs/results.md.

    make pretrained                  all of them
    make pretrained ARGS=signs       one of them

Trains what is not there yet. A folder gets the classifier (8-bit integers), weights to start a
training from, and its card.
"""

import argparse
import json
from typing import Any

import keras

from benchmarks import exports, results, runs
from signs import files, paths
from signs.data import arrays
from signs.errors import run_stage
from signs.exports import formats
from signs.training import pretrained
from signs.training.quantize import calibration


def release() -> None:
    """Write the folders of the chosen classifiers."""
    listed, rows = runs.listed("pretrained"), runs.listed("results")
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("which", nargs="*", default=[], metavar="NAME", help="default: all")
    for name in parser.parse_args().which or listed:
        title = listed[name]
        experiment, settings = next(iter(results.page().experiments[title].items()))
        reference = runs.find(experiment, settings, "evaluate", run=True)
        target = paths.PRETRAINED / name
        with exports.fetched(reference) as folder:
            data = arrays.load(folder / paths.PREPARED)
            models = folder / paths.FLOAT_MODEL, folder / paths.KERAS_MODEL
            source = formats.Source(folder / paths.CLASSIFIER, *models, calibration(data))
            formats.export(source, "onnx-int8", target)
            pretrained.save(keras.models.load_model(models[1]), target / pretrained.WEIGHTS)
        card = _card(name, title, reference, settings, rows[title].get("part", "test"))
        files.write_text(target / "README.md", card)
        sizes = [f"{file.name} {file.stat().st_size / 1e6:.2f} MB" for file in target.iterdir()]
        print(f"{target}: {', '.join(sorted(sizes))}", flush=True)


def _card(name: str, title: str, reference: str, settings: runs.Settings, part: str) -> str:
    metrics = json.loads(runs.read(reference, "metrics/evaluate/details.json"))[part]
    content: dict[str, Any] = json.loads((paths.PRETRAINED / name / "classifier.json").read_text())
    params = content["provenance"]["params"]
    text = (runs.FOLDER / "pretrained.md").read_text(encoding="utf-8")
    return text.format(
        name=name,
        title=title,
        commit=runs.commit(reference),
        changes=", ".join(f"`{key}={value}`" for key, value in settings.items()),
        part={"test": "its own test photos", "external": "photos of `gtsrb`'s even tracks"}[part],
        images=metrics["images"],
        classes=len(content["names"]),
        ece=metrics["ece"],
        megabytes=(paths.PRETRAINED / name / "model.onnx").stat().st_size / 1e6,
        network=params["network"],
        width=params["recipe"]["width"],
        size=content["images"]["size"],
        color=content["images"]["color"],
        **{
            short: f"{metrics[key]:.2%}"
            for short, key in {
                "accuracy": "accuracy",
                "low": "accuracy_low",
                "high": "accuracy_high",
                "balanced": "balanced_accuracy",
            }.items()
        },
    )


if __name__ == "__main__":
    run_stage(release)
