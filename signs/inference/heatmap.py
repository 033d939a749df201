"""How an occlusion map is shown to people."""

import cv2
import numpy as np

from signs.data.images import Image
from signs.inference.saliency import Map

RED = (230.0, 40.0, 20.0)


def overlay(image: Image, importance: Map) -> Image:
    """The prepared image in grey, with what supports the class in red: uint8 RGB.

    The grey levels are stretched: a network that standardizes its images sees more than a person
    in the dark.
    """
    smooth = np.asarray(
        cv2.GaussianBlur(np.clip(importance, 0, None), (0, 0), max(1.0, len(importance) / 24))
    )
    share = 0.75 * smooth[:, :, None] / max(float(smooth.max()), 1e-6)
    grey = image.mean(axis=2, keepdims=True)
    low, high = grey.min(), grey.max()
    if high > low:
        grey = (grey - low) * (255 / (high - low))
    result: Image = np.rint(grey * (1 - share) + np.array(RED) * share).astype(np.uint8)
    return result
