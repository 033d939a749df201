"""Arrays → a trained network, exported as the classifier that is deployed.

Run by `dvc repro train`, or alone: python -m stages.train
A killed run goes on from its last finished epoch the next time.
"""

import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from dvclive.live import Live
from tqdm import tqdm

from signs import machine, params
from signs.data import arrays
from signs.errors import UserError, run_stage
from signs.evaluation import calibration
from signs.inference import classifier
from signs.progress import bar
from signs.reporting import plots
from signs.training import augment, checkpoint, export, networks

METRICS = Path("metrics/train")
KERAS_MODEL = Path("models/model.keras")
# What determines the course of a training, besides data and parameters.
CODE = [
    Path(__file__).parent.parent / path
    for path in (
        "signs/training/augment.py",
        "signs/evaluation/calibration.py",
        "signs/training/networks.py",
        "stages/train.py",
    )
]

TIMING = Path("metrics/timing.json")
STATE_MODEL, BEST_WEIGHTS, PROGRESS = "model.keras", "best.weights.h5", "progress.json"

PREDICTION_BATCH = 256


@dataclass
class Progress:
    """What a training remembers from epoch to epoch."""

    epoch: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    seconds: float = 0.0
    validation_seconds: float = 0.0


def train() -> None:
    """Train the chosen network on the prepared images; export its best epoch."""
    settings = params.load()
    data = arrays.load()
    keras.utils.set_random_seed(settings.train.seed)
    tf.config.experimental.enable_op_determinism()
    network = settings.train.network
    state = checkpoint.folder(
        network,
        settings.train.seed,
        settings.train.devices,
        settings.train.recipe.model_dump(),
        data.digest,
        code=CODE,
    )
    with scope(settings.train.devices):
        model, progress = _restore(state)
        if model is None:
            shutil.rmtree(METRICS, ignore_errors=True)
            model = build(network, data, settings.train.recipe)
    if progress.epoch:
        print(f"An unfinished training goes on after its epoch {progress.epoch}.")
    with Live(
        dir=str(METRICS), resume=progress.epoch > 0, dvcyaml=None, report=None, save_dvc_exp=False
    ) as live:
        recipe = settings.train.recipe.model_dump(exclude={"augment"})
        live.log_params({"network": network, **recipe})
        Training(model, progress, data, settings.train, state, live).run()
    _export(model, data, settings)
    _write_timing(progress, settings.train.recipe)
    checkpoint.discard(state)


def scope(devices: int) -> AbstractContextManager[Any]:
    """Where a model must be made, or loaded, that trains on several devices of this machine.

    Each has a copy of the weights, sees its part of every batch, and the gradients are averaged:
    `batch_size` images a step remain `batch_size` images a step.

    Raises:
        UserError: there are not so many.
    """
    if devices == 1:
        return nullcontext()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) < devices:
        raise UserError(
            f"train.devices is {devices}, but TensorFlow finds {len(found)} here "
            f"({', '.join(device.name for device in found)}). Lower it, or see docs/devices.md."
        )
    names = [device.name for device in found[:devices]]
    context: AbstractContextManager[Any] = tf.distribute.MirroredStrategy(names).scope()
    return context


def build(network: str, data: arrays.Prepared, recipe: params.Recipe) -> keras.Model:
    """The untrained network, compiled with the recipe's optimizer, schedule and loss."""
    size, channels = data.images.shape[1], data.images.shape[3]
    model = networks.NETWORKS[network](size, channels, len(data.labels))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # A device's part of the batch has other means than the batch.
            layer.synchronized = tf.distribute.has_strategy()
    steps = recipe.epochs * recipe.steps_per_epoch
    warmup = int(recipe.warmup * steps)
    rate: Any = recipe.learning_rate
    if recipe.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate, steps - warmup, warmup_target=rate, warmup_steps=warmup
        )
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[Accuracy(name="accuracy")],
    )
    return model


@keras.saving.register_keras_serializable(package="signs")
class Accuracy(keras.metrics.CategoricalAccuracy):  # type: ignore[misc]
    """Of the images that show one class: no answer to an outlier is right."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Count the images whose target (n, classes) is one-hot."""
        one_hot = keras.ops.cast(keras.ops.max(y_true, axis=-1) > 0.999, "float32")
        return super().update_state(y_true, y_pred, one_hot)


class EpochSampler:
    """Draws what each epoch trains on: a function of seed and epoch alone.

    So an epoch after a resumed training sees the same images in the same order.
    """

    def __init__(self, data: arrays.Prepared, recipe: params.Recipe, seed: int) -> None:
        self._data, self._recipe, self._seed = data, recipe, seed
        self._rows = data.rows("train")
        self._labels = data.samples["label"].to_numpy()[self._rows]
        classes = len(data.labels)
        # Outliers have the label -1, so the last row: all answers equally right. D. Hendrycks et
        # al., "Deep Anomaly Detection with Outlier Exposure" (ICLR 2019).
        self._targets = np.vstack([np.eye(classes), np.full(classes, 1 / classes)]).astype("f4")
        self._count = recipe.steps_per_epoch * recipe.batch_size
        # Were the share the same with drawings of few classes, those would swamp the epoch.
        share = len(np.unique(data.synthetic_labels)) / len(data.labels)
        self._synthetic_count = round(recipe.synthetic_share * share * self._count)
        # Where no photo of a class is drawn, drawn outliers would teach what a drawing looks like.
        share = 1 if data.dataset == "synthetic" else share
        outliers = recipe.auxiliary_outlier_share * share if len(data.auxiliary_outliers) else 0
        self._outlier_count = round(outliers * self._count)

    def draw(self, epoch: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Augmented images, uint8 (n, size, size, channels), and targets (n, classes).

        The targets are one-hot, but for outliers: theirs are equal for all classes.
        """
        rng = np.random.default_rng([self._seed, epoch])
        data, balance = self._data, self._recipe.balance
        count = self._count - self._synthetic_count - self._outlier_count
        chosen = augment.sample_epoch(self._labels, count, balance, rng)
        images, labels = [data.images[self._rows[chosen]]], [self._labels[chosen]]
        if self._synthetic_count:
            chosen = augment.sample_epoch(
                data.synthetic_labels, self._synthetic_count, balance, rng
            )
            images.append(data.synthetic_images[chosen])
            labels.append(data.synthetic_labels[chosen])
        if self._outlier_count:
            chosen = rng.integers(len(data.auxiliary_outliers), size=self._outlier_count)
            images.append(data.auxiliary_outliers[chosen])
            labels.append(np.full(self._outlier_count, -1))
        order = rng.permutation(self._count)
        mixed = augment.augment(np.concatenate(images)[order], self._recipe.augment, rng)
        return mixed, self._targets[np.concatenate(labels)[order]]


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
    """A training in progress: epoch by epoch, each of them kept when it is finished."""

    def __init__(
        self,
        model: keras.Model,
        progress: Progress,
        data: arrays.Prepared,
        settings: params.Train,
        state: Path,
        live: Live,
    ) -> None:
        self._model, self._progress, self._settings = model, progress, settings
        self._recipe, self._state, self._live = settings.recipe, state, live
        self._drawer = EpochSampler(data, settings.recipe, settings.seed)
        # Fitting leaves a part of the cores idle: enough to draw the next epoch meanwhile.
        self._helper = ThreadPoolExecutor(1)
        self._drawn = self._helper.submit(self._drawer.draw, progress.epoch)
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
        self._model.load_weights(newest[1] / BEST_WEIGHTS)
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
        logits = predict(self._model, self._images)
        # The loss that is reported is the one before an epoch's last step.
        if not (math.isfinite(loss) and np.isfinite(logits).all()):
            self._line.close()
            raise UserError(
                f"The loss is not a number any more in epoch {epoch}: the training diverged. "
                f"Lower train.{self._settings.network}.learning_rate."
            )
        validation_accuracy = float((logits.argmax(axis=1) == self._labels).mean())
        # As it is deployed, with a fitted temperature. Before that, the loss tells more of label
        # smoothing than of the answers, and grows once the learning rate falls.
        temperature = calibration.fit_temperature(logits, self._labels)
        validation_loss = calibration.log_loss(logits, self._labels, temperature)
        progress.validation_seconds += time.monotonic() - validation_started

        progress.epoch = epoch
        # Not by accuracy: a handful of photos, read rightly by chance, would choose an early epoch.
        better = validation_loss < progress.best_loss
        if better:
            progress.best_epoch = epoch
            progress.best_accuracy, progress.best_loss = validation_accuracy, validation_loss
        self._live.step = epoch
        for name, value in {
            "train/loss": loss,
            "train/accuracy": accuracy,
            "validation/loss": validation_loss,
            "validation/accuracy": validation_accuracy,
            "learning_rate": float(self._model.optimizer.learning_rate),
        }.items():
            self._live.log_metric(name, value)
        self._live.make_summary()
        progress.seconds += time.monotonic() - started
        store_started = time.monotonic()
        _store(self._model, progress, better, self._state)
        progress.seconds += time.monotonic() - store_started
        self._line.tell(
            f"epoch {epoch:3}/{self._recipe.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  "
            f"validation: loss {validation_loss:.4f}  accuracy {validation_accuracy:.4f}"
            f"{' *' if better else '  '}"
        )

    def _fit(self, epoch: int) -> tuple[float, float]:
        """Train on what the epoch draws; returns loss and accuracy."""
        _reseed_dropout(self._model, self._settings.seed, epoch)
        images, targets = self._drawn.result()
        if epoch + 1 < self._recipe.epochs:
            self._drawn = self._helper.submit(self._drawer.draw, epoch + 1)
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


def predict(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits, float32 (N, classes), of prepared images, uint8 (N, size, size, channels)."""
    logits: npt.NDArray[np.float32] = model.predict(images, batch_size=PREDICTION_BATCH, verbose=0)
    return logits


def _validation_rows(data: arrays.Prepared, recipe: params.Recipe) -> npt.NDArray[np.int64]:
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


def _store(model: keras.Model, progress: Progress, better: bool, state: Path) -> None:
    """Keep all that the next epoch needs: model with optimizer, best weights, metrics."""
    before = checkpoint.latest(state)

    def write(folder: Path) -> None:
        model.save(folder / STATE_MODEL)
        if better or before is None:
            model.save_weights(folder / BEST_WEIGHTS)
        else:
            shutil.copy2(before[1] / BEST_WEIGHTS, folder / BEST_WEIGHTS)
        shutil.copytree(METRICS, folder / "metrics")
        (folder / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")

    checkpoint.save(state, progress.epoch, write)


def _restore(state: Path) -> tuple[keras.Model | None, Progress]:
    """Model and progress of an unfinished training; brings its metrics back, too."""
    found = checkpoint.latest(state)
    if found is None:
        return None, Progress()
    _, folder = found
    shutil.rmtree(METRICS, ignore_errors=True)
    shutil.copytree(folder / "metrics", METRICS)
    progress = Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    return keras.models.load_model(folder / STATE_MODEL), progress


def _export(model: keras.Model, data: arrays.Prepared, settings: params.Params) -> None:
    """Write the Keras model, and the classifier with temperature and thresholds."""
    rows = data.rows("validation")
    labels = data.samples["label"].to_numpy()[rows]
    logits = predict(model, data.images[rows])
    temperature = calibration.fit_temperature(logits, labels)
    probabilities = classifier.probabilities(logits, temperature)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    energy = classifier.energy_scores(logits)
    export.save_keras(model, KERAS_MODEL)
    classifier.write(
        classifier.FOLDER,
        model=export.to_onnx(model),
        class_ids=data.labels["ClassId"].tolist(),
        names=data.labels["Name"].tolist(),
        settings=data.settings,
        temperature=temperature,
        threshold=calibration.precision_threshold(
            confidence, correct, settings.train.target_precision
        ),
        energy_threshold=calibration.coverage_threshold(energy, settings.train.target_coverage),
        provenance={
            "commit": export.code_commit(),
            "dataset": data.dataset,
            "data": data.digest,
            "auxiliary_outliers": data.outlier_names,
            "params": {
                "split": data.split.model_dump(),
                "network": settings.train.network,
                "seed": settings.train.seed,
                "recipe": settings.train.recipe.model_dump(),
            },
            "validation": {
                "images": len(rows),
                "accuracy": float(correct.mean()),
                "log_loss": calibration.log_loss(logits, labels, temperature),
            },
        },
    )
    curves = pd.DataFrame(
        {
            name: pd.read_csv(METRICS / "plots/metrics" / path, sep="\t").iloc[:, -1]
            for name, path in {
                "train_loss": "train/loss.tsv",
                "train_accuracy": "train/accuracy.tsv",
                "validation_loss": "validation/loss.tsv",
                "validation_accuracy": "validation/accuracy.tsv",
                "learning_rate": "learning_rate.tsv",
            }.items()
        }
    )
    curves.insert(0, "epoch", range(1, len(curves) + 1))
    plots.plot_curves(curves, METRICS / "curves.png")


def _write_timing(progress: Progress, recipe: params.Recipe) -> None:
    """How long it took, and where; all other outputs are the same after each run there."""
    images = recipe.epochs * recipe.steps_per_epoch * recipe.batch_size
    timing = {
        "processor": machine.processor(),
        "minutes": round(progress.seconds / 60, 2),
        "images_per_second": round(images / (progress.seconds - progress.validation_seconds), 1),
    }
    TIMING.write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(train, tidies=False)
