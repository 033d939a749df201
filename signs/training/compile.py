"""A network that is ready to train: placed on its devices, with optimizer, schedule and loss."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from signs.data.arrays import Prepared
from signs.errors import UserError
from signs.params import CompactRecipe, Recipe
from signs.training.networks import NETWORKS


def scope(devices: int) -> AbstractContextManager[Any]:
    """Where a model must be made, or loaded, that trains on several devices of this machine.

    Each sees its part of every batch of `batch_size` images, and the gradients are averaged.

    Raises:
        UserError: this machine has fewer devices.
    """
    if devices == 1:
        return nullcontext()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) < devices:
        raise UserError(
            f"train.devices is {devices}, but TensorFlow finds {len(found)} here "
            f"({', '.join(device.name for device in found)}). Lower it, or see docs/devices.md."
        )
    strategy = tf.distribute.MirroredStrategy([device.name for device in found[:devices]])
    context: AbstractContextManager[Any] = strategy.scope()
    return context


def build(network: str, data: Prepared, recipe: Recipe) -> keras.Model:
    """The untrained network, compiled with the recipe's optimizer, schedule and loss."""
    options = {"width": recipe.width, "wanted": tuple(recipe.experiment)} if isinstance(recipe, CompactRecipe) else {}
    model = NETWORKS[network](*data.images.shape[2:], len(data.labels), **options)
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
        optimizer=_optimizer(rate, recipe),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[Accuracy(name="accuracy")],
    )
    return model


def _optimizer(rate: Any, recipe: Recipe) -> Any:
    wanted = set(getattr(recipe, "experiment", []))
    made = keras.optimizers.AdamW(
        rate, weight_decay=recipe.weight_decay, beta_2=0.99 if "beta99" in wanted else 0.999
    )
    if "decay-kernels" in wanted:
        made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made


@keras.saving.register_keras_serializable(package="signs")
class Accuracy(keras.metrics.CategoricalAccuracy):  # type: ignore[misc]
    """Accuracy on the images that show one class; auxiliary outliers have no right class."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Count the images whose target (n, classes) is one-hot."""
        one_hot = keras.ops.cast(keras.ops.max(y_true, axis=-1) > 0.999, "float32")
        return super().update_state(y_true, y_pred, one_hot)
