"""Batch normalization: equal to that of Keras, in numbers and in files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from signs.training.normalization import FusedBatchNormalization, plain

PLAIN = keras.layers.BatchNormalization
IMAGES = np.random.default_rng(1).normal(3, 2, (6, 5, 4, 3)).astype("f4")


def gradients(layer: keras.layers.Layer) -> tuple[list[np.ndarray], np.ndarray]:
    """Those of a training step, by what is normalized and by what is learned; and its outputs."""
    images = tf.constant(IMAGES)
    layer.build(images.shape)
    layer.gamma.assign([0.5, 1.0, 2.0])
    layer.beta.assign([0.1, 0.0, -0.1])
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=True)
        loss = tf.reduce_sum(tf.sin(outputs))
    watched = [images, *(variable.value for variable in layer.trainable_variables)]
    return [each.numpy() for each in tape.gradient(loss, watched)], outputs.numpy()


def test_a_training_step_is_that_of_keras() -> None:
    fused, keras_own = (kind(momentum=0.9) for kind in (FusedBatchNormalization, PLAIN))
    (slopes, outputs), (expected_slopes, expected) = map(gradients, (fused, keras_own))
    assert outputs == pytest.approx(expected, abs=1e-5)
    for slope, other in zip(slopes, expected_slopes, strict=True):
        assert slope == pytest.approx(other, abs=1e-4)
    for statistic, other in zip(fused.get_weights(), keras_own.get_weights(), strict=True):
        assert statistic == pytest.approx(other, abs=1e-5)
        assert not np.allclose(statistic, 0)
    assert np.asarray(fused(IMAGES)) == pytest.approx(np.asarray(keras_own(IMAGES)), abs=1e-5)


def test_a_plain_copy_has_layers_of_keras_alone() -> None:
    pixels = keras.Input((5, 4, 3))
    model = keras.Model(pixels, FusedBatchNormalization(momentum=0.8)(pixels))
    model.layers[1].set_weights(list(np.arange(1.0, 13).reshape(4, 3)))
    copy = plain(model)
    assert type(copy.layers[1]) is PLAIN
    assert copy.layers[1].momentum == 0.8
    assert np.asarray(copy(IMAGES)) == pytest.approx(np.asarray(model(IMAGES)), abs=1e-6)
