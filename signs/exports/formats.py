"""The formats that a classifier is exported to, and the runtimes that read them.

A format's model takes what `Classifier.prepare` gives, uint8 (N, size, size, channels), and gives
logits, float32 (N, classes). Beside it lies a classifier.json of its own, for the runtime that has
no place for classes, temperature and thresholds.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from signs import files
from signs.errors import UserError
from signs.inference import classifier
from signs.inference.classifier import Classifier, Inputs, Logits
from signs.training.quantize import quantize

Runtime = Callable[[Inputs], Logits]


class Source(NamedTuple):
    """A classifier and what it was made of."""

    folder: Path  # of the classifier
    onnx_model: Path  # of floats
    keras_model: Path
    calibration: Inputs  # prepared training images


class Format(NamedTuple):
    """How a classifier becomes a file of this format, and how a runtime reads it."""

    file: str
    package: str  # that runs it
    convert: Callable[[Source, Path], None]  # the classifier, where to write the file
    load: Callable[[Path, int], Runtime]  # that file, number of threads


def export(source: Source, name: str, target: Path) -> None:
    """Write a folder with a classifier in one of `FORMATS`, in place of what it was.

    Raises:
        UserError: a package that the format needs is not installed.
    """
    form = FORMATS[name]
    _need(form.package)
    metadata = Classifier(source.folder).metadata.model_dump(exclude={"version", "sha256"})
    files.make_empty(target)
    form.convert(source, target / form.file)
    metadata["provenance"] |= {"format": name}
    classifier.describe(target, form.file, **metadata)


def runnable() -> list[str]:
    """The formats whose runtime is installed."""
    return [name for name, form in FORMATS.items() if importlib.util.find_spec(form.package)]


def load(name: str, folder: Path, threads: int = 1) -> Runtime:
    """What runs the classifier in a folder that `export` wrote.

    Raises:
        UserError: the runtime is not installed, or the file is not whole.
    """
    form = FORMATS[name]
    classifier.read(folder, form.file)
    return form.load(folder / form.file, threads)


def _copy_onnx(source: Source, target: Path) -> None:
    target.write_bytes(source.onnx_model.read_bytes())


def _quantize_onnx(source: Source, target: Path) -> None:
    quantize(source.onnx_model, target, source.calibration)


def _load_onnx(path: Path, threads: int) -> Runtime:
    return Classifier(path.parent, threads).logits


def _convert_litert(source: Source, target: Path) -> None:
    target.write_bytes(_to_litert(source))


def _quantize_litert(source: Source, target: Path) -> None:
    """Weights as 8-bit integers; the runtime quantizes the activations of each image by itself."""
    target.write_bytes(_to_litert(source, quantize=True))


def _to_litert(source: Source, quantize: bool = False) -> bytes:
    import keras
    import tensorflow as tf

    model = keras.models.load_model(source.keras_model)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantize else []
    with _silent():
        content: bytes = converter.convert()
    return content


def _load_litert(path: Path, threads: int) -> Runtime:
    interpreter = _need("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=threads)
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = None

    def run(images: Inputs) -> Logits:
        nonlocal shape
        if images.shape != shape:
            shape = images.shape
            interpreter.resize_tensor_input(given["index"], shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        logits: Logits = interpreter.get_tensor(result["index"])
        return logits

    return run


def _convert_openvino(source: Source, target: Path) -> None:
    openvino = _need("openvino")
    # Not `convert_model`, which reports its use to Intel.
    model = openvino.Core().read_model(source.onnx_model)
    openvino.save_model(model, target, compress_to_fp16=False)


def _load_openvino(path: Path, threads: int) -> Runtime:
    # Where the processor has bfloat16, OpenVINO would compute with its 8 bits of precision.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = _need("openvino").Core().compile_model(path, "CPU", options)
    return lambda images: np.array(model(images)[0])


def _silent() -> contextlib.redirect_stdout[io.StringIO]:
    """What keeps the converters' own messages from the user."""
    return contextlib.redirect_stdout(io.StringIO())


def _need(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise UserError(
            f"This format needs the package {package}: `make setup-dev` installs it."
        ) from error


FORMATS = {
    "onnx": Format(classifier.MODEL, "onnxruntime", _copy_onnx, _load_onnx),
    "onnx-int8": Format(classifier.MODEL, "onnxruntime", _quantize_onnx, _load_onnx),
    "litert": Format("model.tflite", "ai_edge_litert", _convert_litert, _load_litert),
    "litert-int8": Format("model.tflite", "ai_edge_litert", _quantize_litert, _load_litert),
    "openvino": Format("model.xml", "openvino", _convert_openvino, _load_openvino),
}
