"""The training loop: epoch by epoch, each of them kept when it is finished."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from dvclive.live import Live
from tqdm import tqdm

from signs.data.arrays import Prepared
from signs.errors import UserError
from signs.evaluation import calibration
from signs.params import Recipe, Train
from signs.progress import bar
from signs.training import checkpoint
from signs.training.checkpoint import Progress
from signs.training.sampler import EpochSampler

PREDICTION_BATCH = 256


class ProgressLine(keras.callbacks.Callback):  # type: ignore[misc]
    """One bar over all steps of the training, with the time that is left."""

    def __init__(self, epochs: int, steps: int, done: int) -> None:
        super().__init__()
        self._bar = bar(epochs * steps, "train", " steps", initial=done * steps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the bar on by one step."""
        self._bar.update()

    def tell(self, text: str) -> None:
        """Write a line above the bar."""
        now = self._bar.format_dict
        seconds = now["elapsed"] * (now["total"] - now["n"]) / (now["n"] - now["initial"])
        self._bar.write(f"{text}  {tqdm.format_interval(seconds)} left")

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


class Training:
    """A training in progress."""

    def __init__(
        self,
        model: keras.Model,
        progress: Progress,
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
        rows = _validation_rows(data, settings.recipe)
        self._images = data.images[rows]
        self._labels = data.samples["label"].to_numpy()[rows]
        self._line = ProgressLine(self._recipe.epochs, self._recipe.steps_per_epoch, progress.epoch)

    def run(self) -> None:
        """Run all epochs that are left; leaves the best epoch's weights in the model."""
        while self._progress.epoch < self._recipe.epochs:
            self.run_epoch()
        self._line.close()
        newest = checkpoint.latest(self._state)
        assert newest is not None
        self._model.load_weights(newest / checkpoint.BEST_WEIGHTS)
        self._live.summary["parameters"] = self._model.count_params()
        self._live.summary["best"] = {
            "epoch": self._progress.best_epoch,
            "validation_accuracy": self._progress.best_accuracy,
            "validation_loss": self._progress.best_loss,
        }
        self._live.make_summary()

    def run_epoch(self) -> None:
        """Train one epoch, look at the validation images, log and keep the state.

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
        # Not by accuracy: a handful of photos that are right by chance would choose an early epoch.
        is_best = validation_loss < progress.best_loss
        if is_best:
            progress.best_epoch = epoch
            progress.best_accuracy, progress.best_loss = validation_accuracy, validation_loss
        self._log(
            epoch,
            {
                "train/loss": loss,
                "train/accuracy": accuracy,
                "validation/loss": validation_loss,
                "validation/accuracy": validation_accuracy,
                "learning_rate": float(self._model.optimizer.learning_rate),
            },
        )
        progress.seconds += time.monotonic() - started
        store_started = time.monotonic()
        checkpoint.save(self._state, self._model, progress, is_best)
        progress.seconds += time.monotonic() - store_started
        self._line.tell(
            f"epoch {epoch:3}/{self._recipe.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  "
            f"validation: loss {validation_loss:.4f}  accuracy {validation_accuracy:.4f}"
            f"{' *' if is_best else '  '}"
        )

    def _fit(self, epoch: int) -> tuple[float, float]:
        """Train on the images of the epoch; returns loss and accuracy."""
        _reseed_dropout(self._model, self._settings.seed, epoch)
        images, targets = self._sampled.result()
        if epoch + 1 < self._recipe.epochs:
            self._sampled = self._helper.submit(self._sampler.sample, epoch + 1)
        history = self._model.fit(
            images,
            targets,
            batch_size=self._recipe.batch_size,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
            callbacks=[self._line, keras.callbacks.TerminateOnNaN()],
        ).history
        return float(history["loss"][-1]), float(history["accuracy"][-1])

    def _validate(self, epoch: int, loss: float) -> tuple[float, float]:
        """Loss and accuracy on the validation images; the loss as deployed, with a temperature.

        Before calibration it tells more of label smoothing than of the predictions, and it grows
        once the learning rate falls.
        """
        logits = predict(self._model, self._images)
        # The loss that Keras reports is the one before an epoch's last step.
        if not (math.isfinite(loss) and np.isfinite(logits).all()):
            self._line.close()
            raise UserError(
                f"The loss is not a number any more in epoch {epoch}: the training diverged. "
                f"Lower train.{self._settings.network}.learning_rate."
            )
        accuracy = float((logits.argmax(axis=1) == self._labels).mean())
        temperature = calibration.fit_temperature(logits, self._labels)
        return calibration.log_loss(logits, self._labels, temperature), accuracy

    def _log(self, epoch: int, metrics: dict[str, float]) -> None:
        self._live.step = epoch
        for name, value in metrics.items():
            self._live.log_metric(name, value)
        self._live.make_summary()


def predict(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits, float32 (N, classes), of prepared images, uint8 (N, size, size, channels)."""
    logits: npt.NDArray[np.float32] = model.predict(images, batch_size=PREDICTION_BATCH, verbose=0)
    return logits


def _validation_rows(data: Prepared, recipe: Recipe) -> npt.NDArray[np.int64]:
    """The validation images that are looked at after each epoch: the same ones each time."""
    rows = data.rows("validation")
    if len(rows) <= recipe.validation_images:
        return rows
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(rows, recipe.validation_images, replace=False))


def _reseed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Make dropout a function of seed and epoch, whether the training was interrupted or not."""
    for number, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed + 1000 * number, epoch])
