"""A network with integers of 8 bits: a quarter of the size, twice as fast with VNNI or better."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from signs.data.arrays import Prepared
from signs.inference.classifier import Inputs

# Of the activations, this many percent get levels of their own; what is above is rare and clipped.
PERCENTILE = 99.999
# Of all calibration images together: ONNX Runtime holds at once all that they cause in the network.
CALIBRATION_PIXELS = 2**20
BATCH = 64


def calibration(data: Prepared) -> Inputs:
    """Prepared training images, always the same ones, that show which values occur."""
    return data.images[data.some_rows("train", CALIBRATION_PIXELS // data.settings.size**2)]


def quantize(model: Path, target: Path, images: Inputs) -> None:
    """Write an ONNX model of floats, with convolutions of integers.

    The images are those of `calibration`, uint8 (N, size, size, channels). What lies
    between the convolutions keeps its precision: to quantize the sums of the residual blocks, too,
    would change many predictions and save no time. Weights have 7 bits, as processors without VNNI
    add products in 16 bits.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            _Calibration(images),
            op_types_to_quantize=["Conv"],
            activation_type=quantization.QuantType.QUInt8,  # signed ones are half as fast
            per_channel=True,
            reduce_range=True,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The images of a calibration, as ONNX Runtime asks for them."""

    def __init__(self, images: Inputs) -> None:
        size = min(BATCH, len(images))
        # ONNX Runtime wants batches of one size, so a rest is left out.
        starts = range(0, len(images) - size + 1, size)
        self._batches: Iterator[Inputs] = (images[start : start + size] for start in starts)

    def get_next(self) -> dict[str, Inputs] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": np.ascontiguousarray(batch)}
