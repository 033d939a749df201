"""The training loop: epoch by epoch, and the state is saved after each.

The network of the last epoch is deployed. A cosine schedule ends with a learning rate of 0. Which
epoch is best on the photos that validate is decided by two or three signs there.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from dvclive.live import Live

from signs.data.arrays import Prepared
from signs.errors import UserError
from signs.evaluation import calibration
from signs.params import Train
from signs.progress import bar
from signs.training import checkpoint
from signs.training.sampler import EpochSampler


class Training:
    """A training in progress."""

    def __init__(
        self,
        model: keras.Model,
        progress: checkpoint.Progress,
        data: Prepared,
        settings: Train,
        state: Path,
        live: Live,
    ) -> None:
        self._model, self._progress, self._settings = model, progress, settings
        self._recipe, self._state, self._live = settings.recipe, state, live
        self._sampler = EpochSampler(data, settings.recipe, settings.seed)
        # Fitting leaves a part of the cores idle: enough to prepare the next epoch meanwhile.
        self._helper = ThreadPoolExecutor(1)
        self._sampled = self._helper.submit(self._sampler.sample, progress.epoch)
        rows = data.some_rows("validation", settings.recipe.validation_images)
        self._images, self._labels = data.images[rows], data.samples["label"].to_numpy()[rows]
        steps = self._recipe.steps_per_epoch
        self._bar = bar(self._recipe.epochs * steps, "train", " steps", progress.epoch * steps)

    def run(self) -> None:
        """Run the epochs that are left."""
        while self._progress.epoch < self._recipe.epochs:
            self.run_epoch()
        self._bar.close()
        self._live.summary["parameters"] = self._model.count_params()
        self._live.make_summary()

    def run_epoch(self) -> None:
        """Train one epoch, predict the validation images, log and save the state.

        Raises:
            UserError: the loss is not a number.
        """
        started = time.monotonic()
        progress, epoch = self._progress, self._progress.epoch + 1
        loss, accuracy = self._fit(epoch - 1)
        validation_started = time.monotonic()
        validation_loss, validation_accuracy = self._validate(epoch, loss)
        progress.validation_seconds += time.monotonic() - validation_started
        progress.epoch = epoch
        metrics = {
            "train/loss": loss,
            "train/accuracy": accuracy,
            "validation/loss": validation_loss,
            "validation/accuracy": validation_accuracy,
            "learning_rate": float(self._model.optimizer.learning_rate),
        }
        self._live.step = epoch
        for name, value in metrics.items():
            self._live.log_metric(name, value)
        self._live.make_summary()
        before = progress.seconds
        progress.seconds = before + time.monotonic() - started
        checkpoint.save(self._state, self._model, progress)
        progress.seconds = before + time.monotonic() - started
        seconds_left = progress.seconds / epoch * (self._recipe.epochs - epoch)
        self._bar.write(
            f"epoch {epoch:3}/{self._recipe.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  "
            f"validation: loss {validation_loss:.4f}  accuracy {validation_accuracy:.4f}"
            f"  {self._bar.format_interval(seconds_left)} left"
        )

    def _fit(self, epoch: int) -> tuple[float, float]:
        """Loss and accuracy of training on the epoch's images."""
        # Dropout, too, depends on seed and epoch alone, even after an interruption.
        for number, layer in enumerate(self._model.layers):
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([self._settings.seed + 1000 * number, epoch])
        images, targets = self._sampled.result()
        if epoch + 1 < self._recipe.epochs:
            self._sampled = self._helper.submit(self._sampler.sample, epoch + 1)
        step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: self._bar.update())
        callbacks = [step, keras.callbacks.TerminateOnNaN()]
        batches = _batches((images, targets), self._recipe.batch_size)
        history = self._model.fit(batches, shuffle=False, verbose=0, callbacks=callbacks).history
        return float(history["loss"][-1]), float(history["accuracy"][-1])

    def _validate(self, epoch: int, loss: float) -> tuple[float, float]:
        """Loss of calibrated probabilities, and accuracy, on the validation images.

        Without calibration, the loss would also tell how confident the network is.
        """
        logits = predict(self._model, self._images)
        # The loss that Keras reports is the one before an epoch's last step.
        if not (np.isfinite(loss) and np.isfinite(logits).all()):
            self._bar.close()
            raise UserError(
                f"The loss is not a number any more in epoch {epoch}: the training diverged. "
                f"Lower train.{self._settings.network}.learning_rate."
            )
        accuracy = float((logits.argmax(axis=1) == self._labels).mean())
        temperature = calibration.fit_temperature(logits, self._labels)
        return calibration.log_loss(logits, self._labels, temperature), accuracy


def predict(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits, float32 (N, classes), of prepared images, uint8 (N, size, size, channels)."""
    logits: npt.NDArray[np.float32] = model.predict(_batches(images, 256), verbose=0)
    return logits


def _batches(arrays: Any, size: int) -> tf.data.Dataset:
    """Arrays of equal length, or one, in batches of `size`, in their order.

    Keras makes such a data set of arrays, too, but one that TensorFlow tunes while it runs. The
    tuner's thread sleeps twice as long each time, and often misses that it shall end: an epoch of
    12 seconds then takes 20.5 (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size).with_options(options)
