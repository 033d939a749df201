"""Weights of a released classifier, from which a training on other photos can start.

Start from a network that knows signs of another country: fewer photos suffice (J. Yosinski et al.,
"How transferable are features in deep neural networks?", NIPS 2014).
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from signs.errors import UserError
from signs.paths import PRETRAINED

WEIGHTS = "weights.npz"
HEAD = "logits"  # the layer that belongs to the classes


def save(model: keras.Model, path: Path) -> None:
    """Write all weights but those of the last layer, with 16 bits each."""
    arrays = [np.asarray(weights).astype(np.float16) for weights in _body(model)]
    np.savez_compressed(path, *arrays)


def find(name: str) -> Path:
    """The weights in `pretrained/<name>`; those of `none` are none.

    Raises:
        UserError: there are no such weights.
    """
    path = PRETRAINED / name / WEIGHTS
    if not path.exists():
        names = ", ".join(sorted(file.parent.name for file in PRETRAINED.glob(f"*/{WEIGHTS}")))
        raise UserError(f"train.start is {name!r}, but {PRETRAINED}/ has these alone: {names}.")
    return path


def start(model: keras.Model, path: Path) -> None:
    """Give a network the weights of a file.

    Raises:
        UserError: they are of another network.
    """
    with np.load(path) as archive:
        arrays = [archive[key] for key in archive.files]
    if not arrays:
        return
    body = _body(model)
    if [array.shape for array in arrays] != [tuple(weights.shape) for weights in body]:
        raise UserError(
            f"{path} has weights of another network. Choose train.network, its width and the "
            f"colour of its images as {path.parent}/README.md says, or train.start=none."
        )
    for weights, array in zip(body, arrays, strict=True):
        weights.assign(array.astype(np.float32))


def _body(model: keras.Model) -> list[Any]:
    return [weights for layer in model.layers if layer.name != HEAD for weights in layer.weights]
