"""Which parts of an image a prediction rests on: occlusion maps.

M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014). The
method needs nothing but predictions, so it works on any exported model.
"""

import itertools

import numpy as np
import numpy.typing as npt

from signs.data.images import Image
from signs.inference.classifier import Classifier

CELLS = 8  # a side; a patch hides 2 x 2 of them and moves by one: 49 patches

Map = npt.NDArray[np.float32]


def occlusion_map(model: Classifier, image: Image, label: int) -> Map:
    """How much each pixel of a prepared image, uint8 (size, size, channels), supports a class.

    Float32 (size, size): mean fall of the class's log probability over the patches that hide the
    pixel; negative where hiding makes the class more probable.
    """
    size = image.shape[0]
    edges = np.linspace(0, size, CELLS + 1).round().astype(int)
    sides = [slice(start, end) for start, end in zip(edges, edges[2:], strict=False)]
    patches = list(itertools.product(sides, repeat=2))
    inputs = np.repeat(image[None], len(patches) + 1, axis=0)
    for hidden, place in zip(inputs[1:], patches, strict=True):
        hidden[place] = image.mean(axis=(0, 1))
    log_probability = np.log(np.maximum(model.probabilities(inputs)[:, label], 1e-12))
    falls, counts = np.zeros((2, size, size), np.float32)
    for place, hidden_value in zip(patches, log_probability[1:], strict=True):
        falls[place] += log_probability[0] - hidden_value
        counts[place] += 1
    result: Map = falls / counts
    return result
