"""Arrays → a trained network, exported as the classifier that is deployed.

Run by `dvc repro train`, or alone: python -m stages.train
A killed run goes on from its last finished epoch the next time.
"""

import shutil

import keras
import tensorflow as tf
from dvclive.live import Live

from signs import files, machine, params, pipeline
from signs.data import arrays
from signs.errors import run_stage
from signs.paths import TIMING, TRAIN_METRICS
from signs.training import checkpoint, pretrained
from signs.training.compile import build, scope
from signs.training.export import write_classifier
from signs.training.loop import Training


def train() -> None:
    """Train the chosen network on the prepared images; export it as it is after the last epoch."""
    settings = params.load()
    data = arrays.load()
    network, recipe = settings.train.network, settings.train.recipe
    keras.utils.set_random_seed(settings.train.seed)
    tf.config.experimental.enable_op_determinism()
    weights = pretrained.find(settings.train.start)
    determinants = settings.train.chosen(), data.digest, files.md5(weights)
    fingerprint = pipeline.fingerprint("train", *determinants)
    state = checkpoint.ROOT / fingerprint[:16]
    with scope(settings.train.devices):
        model, progress = checkpoint.restore(state)
        if model is None:
            shutil.rmtree(TRAIN_METRICS, ignore_errors=True)
            model = build(network, data, recipe)
            pretrained.start(model, weights)
    if progress.epoch:
        print(f"An unfinished training goes on after its epoch {progress.epoch}.")
    with Live(
        str(TRAIN_METRICS), resume=progress.epoch > 0, dvcyaml=None, report=None, save_dvc_exp=False
    ) as live:
        live.log_params({"network": network, **recipe.model_dump(exclude={"augment"})})
        Training(model, progress, data, settings.train, state, live).run()
    write_classifier(model, data, settings.train, fingerprint)
    images = recipe.epochs * recipe.steps_per_epoch * recipe.batch_size
    timing = {
        "processor": machine.processor(),
        "minutes": round(progress.seconds / 60, 2),
        "images_per_second": round(images / (progress.seconds - progress.validation_seconds), 1),
    }
    files.write_json(TIMING, timing)
    checkpoint.discard(state)


if __name__ == "__main__":
    run_stage(train, tidies=False)
