"""The networks. Input: uint8 images (N, size, size, channels). Output: logits (N, classes).

Only layers that Keras ships, so a saved model needs none of our code. Scaling is part of the
network, so that nobody who feeds it can scale wrongly.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers


def compact(size: int, channels: int, classes: int) -> keras.Model:
    """Five residual blocks (He et al. 2015, arXiv 1512.03385) after a 5x5 stem.

    About 0.7 M parameters and, at 32x32, 22 M multiply-accumulates for one image.
    """
    pixels = keras.Input((size, size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = _convolve(x, 32, stride=2, kernel=5)
    for filters in (32, 64, 64, 128, 128):
        x = _residual(x, filters)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, layers.Dense(classes, name="logits")(x), name="compact")


def variant(size: int, channels: int, classes: int, wanted: set[str]) -> keras.Model:
    """The compact network, changed for an experiment."""
    momentum = 0.99 if "bn99" in wanted else 0.9

    def convolve(x, filters, stride=1, activate=True, kernel=3):
        x = layers.Conv2D(
            filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal"
        )(x)
        x = layers.BatchNormalization(momentum=momentum)(x)
        return layers.ReLU()(x) if activate else x

    def residual(x, filters, stride):
        shortcut = x
        if stride == 2 or x.shape[-1] != filters:
            shortcut = layers.AveragePooling2D(stride, padding="same")(x) if stride == 2 else x
            shortcut = convolve(shortcut, filters, activate=False, kernel=1)
        y = convolve(x, filters, stride)
        y = convolve(y, filters, activate=False)
        if "se" in wanted:
            squeezed = layers.GlobalAveragePooling2D(keepdims=True)(y)
            squeezed = layers.Conv2D(filters // 8, 1, activation="relu")(squeezed)
            y = layers.Multiply()([y, layers.Conv2D(filters, 1, activation="sigmoid")(squeezed)])
        return layers.ReLU()(layers.Add()([shortcut, y]))

    pixels = keras.Input((size, size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    if "standardize" in wanted:
        x = layers.LayerNormalization(axis=[1, 2, 3], center=False, scale=False, epsilon=1e-3)(x)
    if "stem1" in wanted:
        x = convolve(x, 16)
        blocks = [(32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]
    elif "stem1pool" in wanted:
        x = convolve(x, 16)
        x = convolve(x, 32)
        x = layers.MaxPooling2D(2)(x)
        blocks = [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]
    elif "stem3" in wanted:
        x = convolve(x, 32, 2)
        blocks = [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]
    elif "lean" in wanted:
        x = convolve(x, 32, 2, kernel=5)
        blocks = [(32, 1), (64, 2), (64, 1), (96, 2), (96, 1)]
    elif "wide" in wanted:
        x = convolve(x, 40, 2, kernel=5)
        blocks = [(40, 1), (80, 2), (80, 1), (144, 2), (144, 1)]
    elif "deep" in wanted:
        x = convolve(x, 32, 2, kernel=5)
        blocks = [(32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (128, 2), (128, 1)]
    elif "tiny" in wanted:
        x = convolve(x, 16, 2, kernel=5)
        blocks = [(16, 1), (24, 2), (24, 1), (48, 2), (48, 1)]
    else:
        x = convolve(x, 32, 2, kernel=5)
        blocks = [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]
    for filters, stride in blocks:
        x = residual(x, filters, stride)
    if "flatten" in wanted:
        x = layers.Flatten()(layers.Conv2D(32, 1, activation="relu")(x))
    else:
        x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.4 if "dropout" in wanted else 0.2)(x)
    return keras.Model(pixels, layers.Dense(classes, name="logits")(x), name="compact")


def _convolve(x: Any, filters: int, stride: int = 1, activate: bool = True, kernel: int = 3) -> Any:
    x = layers.Conv2D(
        filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal"
    )(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
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


def classic(size: int, channels: int, classes: int) -> keras.Model:
    """The original project's network: 60-60-30-30 filters, 500 units, dropout 0.5."""
    pixels = keras.Input((size, size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(pixels)
    for filters, kernel in ((60, 5), (30, 3)):
        x = layers.Conv2D(filters, kernel, activation="relu")(x)
        x = layers.Conv2D(filters, kernel, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(layers.Dropout(0.5)(x))
    x = layers.Dense(500, activation="relu")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(pixels, layers.Dense(classes, name="logits")(x), name="classic")


NETWORKS: dict[str, Callable[..., keras.Model]] = {"compact": compact, "classic": classic}
