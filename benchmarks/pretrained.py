"""Train the classifiers of pretrained.yaml and write pretrained/: the released files.

    make pretrained                  all of them, half an hour on two cores
    make pretrained ARGS=signs       one of them

Each is a DVC experiment, and one that exists for the present code and settings is not run again.
A folder gets the classifier (8-bit integers), weights to start a training from, and its card.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import keras
from dvc.api import DVCFileSystem

from benchmarks import runs
from signs import files, paths
from signs.commands import git
from signs.errors import run_stage
from signs.training import pretrained


def release() -> None:
    """Write the folders of the chosen classifiers."""
    listed = runs.listed("pretrained")
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("which", nargs="*", default=[], metavar="NAME", help="default: all")
    for name in parser.parse_args().which or listed:
        reference = runs.find(f"pretrained {name}", listed[name], "report", run=True)
        with tempfile.TemporaryDirectory() as folder:
            experiment = DVCFileSystem(rev=git("rev-parse", reference))
            for path in (paths.CLASSIFIER, paths.KERAS_MODEL):
                experiment.get(path.as_posix(), f"{folder}/{path.name}", recursive=True)
            target = paths.PRETRAINED / name
            files.make_empty(target)
            for file in Path(folder, paths.CLASSIFIER.name).iterdir():
                shutil.copy(file, target)
            model = keras.models.load_model(Path(folder, paths.KERAS_MODEL.name))
        pretrained.save(model, target / pretrained.WEIGHTS)
        files.write_text(target / "README.md", runs.read(reference, str(paths.MODEL_CARD)) + "\n")
        sizes = {file.name: f"{file.stat().st_size / 1e6:.2f} MB" for file in target.iterdir()}
        print(target, sizes)


if __name__ == "__main__":
    run_stage(release)
