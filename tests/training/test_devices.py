"""One training on two devices: the same as on one, batch by batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A Python of its own: TensorFlow divides a processor into devices only before it has used it.
TRAIN = """
import contextlib, json, tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from dvclive.live import Live
from keras import layers

from signs.errors import UserError
from signs.paths import TRAIN_METRICS
from signs.training import checkpoint, networks
from signs.training.compile import build, scope
from signs.training.loop import Training, predict
from signs.training.normalization import FusedBatchNormalization
from tests.training.small import PARAMS, prepared, recipe

half = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [half, half])


# Each kind of layer of the real ones, but dropout: each device would drop others.
def tiny(size, channels, classes, width):
    pixels = keras.Input((size, size, channels), dtype="uint8")
    x = layers.Conv2D(4, 3, use_bias=False)(layers.Rescaling(1 / 127.5, offset=-1.0)(pixels))
    x = layers.ReLU()(FusedBatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, layers.Dense(classes)(x))


def curves_and_logits(devices, pause=False):
    keras.utils.set_random_seed(1)
    data = prepared()
    noise = np.random.default_rng(0).integers(0, 256, data.images.shape)
    noise[:, :4, :, 0] //= 1 + np.arange(90)[:, None, None] % 3
    data.images[:] = noise
    changes = {"compact": recipe(epochs=2), "devices": devices}
    settings = PARAMS.train.model_copy(update=changes)
    options = {"dvcyaml": None, "report": None, "save_dvc_exp": False}
    state = Path("state")
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        Live(dir=str(TRAIN_METRICS), **options) as live,
    ):
        with scope(devices):
            model = build("compact", data, settings.compact)
        training = Training(model, checkpoint.Progress(), data, settings, state, live)
        if pause:
            training.run_epoch()
            with scope(devices):
                model, progress = checkpoint.restore(state)
            training = Training(model, progress, data, settings, state, live)
        training.run()
        curves = [
            pd.read_csv(TRAIN_METRICS / "plots/metrics" / name, sep="\\t").iloc[:, -1].tolist()
            for name in ("train/loss.tsv", "train/accuracy.tsv", "validation/loss.tsv")
        ]
        return curves, predict(model, data.images).tolist()


networks.NETWORKS["compact"] = tiny
tf.config.experimental.enable_op_determinism()
try:
    scope(3)
except UserError as error:
    refusal = str(error)
runs = curves_and_logits(1), curves_and_logits(2), curves_and_logits(2, pause=True)
print(json.dumps([*runs, refusal]))
"""


def test_two_devices_learn_as_one_does() -> None:
    command = [sys.executable, "-c", TRAIN]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (curves, logits), two, resumed, refusal = json.loads(done.stdout.splitlines()[-1])
    assert curves[0][-1] < curves[0][0]
    for other_curves, other_logits in (two, resumed):
        for curve, other in zip(curves, other_curves, strict=True):
            assert other == pytest.approx(curve, abs=1e-4)
        for row, other in zip(logits, other_logits, strict=True):
            assert other == pytest.approx(row, abs=1e-3)
    assert resumed == two
    assert refusal.startswith("train.devices is 3, but TensorFlow finds 2 here (/device:CPU:0,")
