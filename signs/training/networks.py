"""The networks. Input: uint8 images (N, size, size, channels). Output: logits (N, classes).

Scaling is part of the network, so that nobody who feeds it can scale wrongly. A saved model needs
none of our code (`normalization.plain`).
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from signs.training.normalization import FusedBatchNormalization


def compact(size: int, channels: int, classes: int, width: int) -> keras.Model:
    """Five residual blocks (He et al. 2015, arXiv 1512.03385) after a 5x5 stem.

    Each image is standardized first, as nobody knows how dark or pale a photo will be. The stem has
    `width` filters, and the blocks once, twice and four times as many. With 32, these are about
    0.7 M parameters and, at 32x32, 22 M multiply-accumulates for one image.
    """
    pixels = keras.Input((size, size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = layers.LayerNormalization(axis=[1, 2, 3], center=False, scale=False)(x)
    x = _convolve(x, width, stride=2, kernel=5)
    for multiple in (1, 2, 2, 4, 4):
        x = _residual(x, multiple * width)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, layers.Dense(classes, name="logits")(x), name="compact")


def _convolve(x: Any, filters: int, stride: int = 1, activate: bool = True, kernel: int = 3) -> Any:
    x = layers.Conv2D(
        filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal"
    )(x)
    x = FusedBatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if activate else x


def _residual(x: Any, filters: int) -> Any:
    """A block that halves the image where it changes the number of filters."""
    shortcut, stride = x, 1
    if x.shape[-1] != filters:
        stride = 2
        shortcut = layers.AveragePooling2D(stride, padding="same")(x)
        shortcut = _convolve(shortcut, filters, activate=False, kernel=1)
    y = _convolve(x, filters, stride)
    y = _convolve(y, filters, activate=False)
    return layers.ReLU()(layers.Add()([shortcut, y]))


def classic(size: int, channels: int, classes: int, width: int) -> keras.Model:
    """The original project's network: with 60 filters, 60-60-30-30, 500 units, dropout 0.5."""
    pixels = keras.Input((size, size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(pixels)
    for filters, kernel in ((width, 5), (width // 2, 3)):
        x = layers.Conv2D(filters, kernel, activation="relu")(x)
        x = layers.Conv2D(filters, kernel, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(layers.Dropout(0.5)(x))
    x = layers.Dense(500, activation="relu")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(pixels, layers.Dense(classes, name="logits")(x), name="classic")


NETWORKS: dict[str, Callable[..., keras.Model]] = {"compact": compact, "classic": classic}
