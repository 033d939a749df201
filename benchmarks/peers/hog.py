"""Histograms of oriented gradients and a linear discriminant: the baseline of 2011.

    python -m benchmarks.peers.hog TRAINING TARGET.onnx IMAGES

J. Stallkamp et al., "Man vs. computer: Benchmarking machine learning algorithms for traffic sign
recognition", Neural Networks 32 (2012): their HOG 1 has 1,568 values of a photo of 40 pixels, of 8
orientations in cells of 5 pixels, normalized in blocks of 2 x 2 cells. The gradients here are of
grey photos. All of it is in the ONNX file.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

SIZE, CELL, BINS = 40, 5, 8
SMALL = 1e-3  # grey levels
SEED = 1


def train(training: Path, target: Path, budget: int) -> None:
    """Fit on at most `budget` photos, write the ONNX file, and beside it what it took."""
    photos = keras.utils.image_dataset_from_directory(
        training / "train", image_size=(SIZE, SIZE), batch_size=256, seed=SEED
    )
    started = time.monotonic()
    images = keras.Input((SIZE, SIZE, 3))
    features = keras.Model(images, histograms(images))
    parts = [(features(part).numpy(), labels.numpy()) for part, labels in _some(photos, budget)]
    values, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    # The covariance of few photos cannot be inverted as it is.
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    discriminant.fit(values, labels)
    scores = keras.layers.Dense(len(photos.class_names))
    model = keras.Model(images, scores(features.output))
    scores.set_weights([discriminant.coef_.T, discriminant.intercept_])
    seconds = time.monotonic() - started
    model(np.zeros((1, SIZE, SIZE, 3), np.float32))
    model.export(target, format="onnx")
    took = {"images": len(labels), "minutes": seconds / 60, "scale": "0-255"}
    target.with_suffix(".json").write_text(json.dumps(took), encoding="utf-8")


def _some(photos: Any, budget: int) -> Iterator[tuple[Any, Any]]:
    """Batches until the budget is spent."""
    for part, labels in photos:
        if budget <= 0:
            return
        yield part[:budget], labels[:budget]
        budget -= len(labels)


def histograms(images: Any) -> Any:
    """RGB images, 0 to 255, (N, SIZE, SIZE, 3) → (N, 1568)."""
    # Not by a tensor of three numbers: the exporter would make it another input of the model.
    grey = 0.299 * images[..., 0] + 0.587 * images[..., 1] + 0.114 * images[..., 2]
    padded = ops.pad(grey, [[0, 0], [1, 1], [1, 1]], mode="reflect")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    strength = ops.sqrt(across**2 + down**2)
    # The sign of a gradient does not count: -1/2 to 1/2 of half a turn.
    angle = ops.arctan(down / ops.where(ops.abs(across) < SMALL, SMALL, across)) / np.pi
    cells = []
    for place in range(BINS):
        # The two nearest orientations share a gradient.
        apart = ops.abs(angle - ((place + 0.5) / BINS - 0.5))
        share = ops.relu(1 - BINS * ops.minimum(apart, 1 - apart))
        cells.append(ops.average_pool((strength * share)[..., None], CELL, CELL))
    cells = ops.concatenate(cells, axis=-1)
    corners = (cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:])
    blocks = ops.concatenate(corners, axis=-1)
    length = ops.sqrt(ops.sum(blocks**2, axis=-1, keepdims=True) + 1)
    side = SIZE // CELL - 1
    return ops.reshape(blocks / length, (-1, side * side * 4 * BINS))


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
