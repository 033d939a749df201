"""Where a classifier looks: how much less it believes in an answer if a part is hidden.

Occlusion maps (M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional
Networks", ECCV 2014) need nothing but the classifier's answers, so they work on the exported
model, whatever network is inside.
"""

import cv2
import numpy as np
import numpy.typing as npt

from signs.data.images import Image
from signs.inference.classifier import Classifier

CELLS = 8  # a side; a patch hides 2 x 2 of them and moves by one: 49 patches
RED = (230.0, 40.0, 20.0)

Map = npt.NDArray[np.float32]


def occlusion_map(model: Classifier, image: Image, label: int) -> Map:
    """What each part of a prepared image adds to the belief in a class.

    Args:
        model: any classifier.
        image: prepared, uint8 (size, size, channels).
        label: position of the class in the classifier's classes.

    Returns:
        float32 (size, size): mean fall of the class's log probability over the patches that
        hide a pixel; negative where hiding makes the class more probable.
    """
    size = image.shape[0]
    edges = np.linspace(0, size, CELLS + 1).round().astype(int)
    patches = [
        (slice(edges[y], edges[y + 2]), slice(edges[x], edges[x + 2]))
        for y in range(CELLS - 1)
        for x in range(CELLS - 1)
    ]
    inputs = np.repeat(image[None], len(patches) + 1, axis=0)
    for hidden, place in zip(inputs[1:], patches, strict=True):
        hidden[place] = image.mean(axis=(0, 1))
    beliefs = np.log(np.maximum(model.probabilities(inputs)[:, label], 1e-12))
    falls, counts = np.zeros((2, size, size), np.float32)
    for place, belief in zip(patches, beliefs[1:], strict=True):
        falls[place] += beliefs[0] - belief
        counts[place] += 1
    result: Map = falls / counts
    return result


def overlay(image: Image, importance: Map) -> Image:
    """The prepared image in grey, with what speaks for the class in red: uint8 RGB."""
    smooth = np.asarray(
        cv2.GaussianBlur(np.clip(importance, 0, None), (0, 0), max(1.0, len(importance) / 24))
    )
    share = 0.75 * smooth[:, :, None] / max(float(smooth.max()), 1e-6)
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    result: Image = np.rint(grey * (1 - share) + np.array(RED) * share).astype(np.uint8)
    return result
