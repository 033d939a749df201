"""Blur kernels, shared by the synthetic photos and the corruptions."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def motion_kernel(length: float, angle: float) -> npt.NDArray[Any]:
    """The float32 kernel of a motion blur: `length` in pixels, `angle` in radians; it sums to 1."""
    reach = length / 2
    half, steps = math.ceil(reach) + 1, max(1, math.ceil(4 * reach))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    # Kernels are a few pixels long: too few for NumPy to be faster.
    for step in range(-steps, steps + 1):
        along = reach * step / steps
        row, column = round(along * math.sin(angle)), round(along * math.cos(angle))
        kernel[half + row, half + column] += 1 / (2 * steps + 1)
    return kernel
