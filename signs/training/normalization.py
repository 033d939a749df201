"""Batch normalization that trains faster than that of Keras, and is saved as that of Keras."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="signs")
class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """`keras.layers.BatchNormalization` whose training step is one operation of TensorFlow.

    Keras makes it of a dozen, each of which reads and writes the whole batch. On a CPU, TensorFlow
    also joins this one with the activation behind it.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize images (N, height, width, channels), as `BatchNormalization` does."""
        if not training or self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        # TensorFlow divides the variance by n - 1, Keras by n.
        count = ops.cast(ops.size(inputs[..., 0]), variance.dtype)
        variance *= (count - 1) / count
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * of_batch)
        return outputs


def plain(model: keras.Model) -> keras.Model:
    """A copy of a model that is not compiled, of the layers of Keras alone: equal logits."""
    registered = keras.saving.get_registered_name(FusedBatchNormalization)
    with keras.saving.custom_object_scope({registered: keras.layers.BatchNormalization}):
        copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy
