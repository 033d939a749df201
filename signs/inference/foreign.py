"""Classifiers that others made: any ONNX file that takes images and gives a score for each class.

`ForeignClassifier` is used like `Classifier`, so all that measures one measures the other.
"""

import ast
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from signs.errors import UserError
from signs.inference import classifier
from signs.inference.classifier import Classifier, Inputs, Logits, Metadata
from signs.params import ImageSettings

Floats = npt.NDArray[np.float32]
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
# How pixels, 0 to 255, become what a model wants.
SCALES: dict[str, Callable[[Floats], Floats]] = {
    "0-255": lambda pixels: pixels,
    "0-1": lambda pixels: pixels / np.float32(255),
    "-1-1": lambda pixels: pixels / np.float32(127.5) - np.float32(1),
    "imagenet": lambda pixels: (pixels / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD,
}
BATCH = 64
SMALLEST = 1e-12  # of a probability whose logarithm is taken


class Options(NamedTuple):
    """What the model's file may leave open; None: as the file says."""

    size: int | None = None  # pixels a side
    scale: str | None = None  # one of `SCALES`
    output: str | None = None  # logits | probabilities
    names: list[str] | None = None  # of the classes, in the order of the outputs


class ForeignClassifier(Classifier):
    """An ONNX model of images: NCHW or NHWC, floats or uint8, one or three channels."""

    def __init__(self, path: Path, options: Options, threads: int = 1) -> None:
        """Load a model; what it says of itself counts where `options` say nothing.

        Raises:
            UserError: the file is no ONNX model of images, or leaves open what options must say.
        """
        try:
            content = path.read_bytes()
            self._session = classifier.session(content, threads)
        except Exception as error:  # ONNX Runtime's have no other base
            raise UserError(f"{path} cannot be loaded as an ONNX model: {error}") from error
        told = self._session.get_modelmeta().custom_metadata_map
        settings = self._set_input(path, told, options)
        names = self._set_output(path, settings, told, options)
        sha256 = hashlib.sha256(content).hexdigest()
        self.metadata = Metadata(
            version=sha256[:12],
            sha256=sha256,
            class_ids=list(range(len(names))),
            names=names,
            images=settings,
            temperature=1.0,
            threshold=0.0,
            energy_threshold=-np.inf,
            provenance={"auxiliary_outliers": []},
        )

    def _set_input(self, path: Path, told: dict[str, str], options: Options) -> ImageSettings:
        given = self._session.get_inputs()
        if len(given) != 1 or len(given[0].shape) != 4:
            raise UserError(
                f"{path} takes {[each.shape for each in given]}; only models that take one batch "
                "of images, (N, C, H, W) or (N, H, W, C), can be judged."
            )
        self._input, shape, kind = given[0].name, given[0].shape, given[0].type
        self._channels_first = shape[1] in (1, 3) and shape[3] not in (1, 3)
        self._needs_full_batches = isinstance(shape[0], int)
        self._batch = shape[0] if self._needs_full_batches else BATCH
        self._type = np.uint8 if "uint8" in kind else np.float16 if "16" in kind else np.float32
        self._scale = SCALES[_scale(path, self._type, told, options)]
        return ImageSettings(
            size=_size(path, shape[2:] if self._channels_first else shape[1:3], told, options),
            color="grey" if shape[1 if self._channels_first else 3] == 1 else "rgb",
            contrast="none",
            margin=0.0,
        )

    def _set_output(
        self, path: Path, settings: ImageSettings, told: dict[str, str], options: Options
    ) -> list[str]:
        noise = np.random.default_rng(0).integers(0, 256, (2, *settings.shape), np.uint8)
        outputs = self._scores(noise)
        if outputs.ndim != 2:
            raise UserError(f"{path} gives an array of {outputs.shape}, not (N, classes).")
        self.gives_probabilities = options.output == "probabilities"
        if options.output is None:
            sums_to_one = np.allclose(outputs.sum(axis=1), 1, atol=1e-3)
            self.gives_probabilities = bool((outputs >= 0).all() and sums_to_one)
        names = options.names or _names(told) or [str(i) for i in range(outputs.shape[1])]
        if len(names) != outputs.shape[1]:
            raise UserError(
                f"{path} has {outputs.shape[1]} outputs, but {len(names)} names are given."
            )
        return names

    def logits(self, prepared: Inputs) -> Logits:
        """Prepared images, uint8 (N, size, size, channels) → logits, float32 (N, classes)."""
        outputs = self._scores(prepared)
        if self.gives_probabilities:
            outputs = np.log(np.maximum(outputs, SMALLEST))
        return outputs.astype(np.float32)

    def _scores(self, prepared: Inputs) -> Floats:
        pixels = prepared
        if self._type is not np.uint8:
            pixels = self._scale(prepared.astype(np.float32)).astype(self._type)
        if self._channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        parts = [pixels[i : i + self._batch] for i in range(0, len(pixels), self._batch)]
        return np.concatenate([self._run(part) for part in parts])

    def _run(self, part: npt.NDArray[Any]) -> Floats:
        count = len(part)
        if self._needs_full_batches:
            part = np.concatenate([part, np.repeat(part[-1:], self._batch - count, axis=0)])
        outputs = self._session.run(None, {self._input: np.ascontiguousarray(part)})[0]
        return np.asarray(outputs[:count], np.float32)


def _scale(path: Path, kind: type, told: dict[str, str], options: Options) -> str:
    if options.scale:
        return options.scale
    if kind is np.uint8:
        return "0-255"
    if "stride" in told and "names" in told:  # as Ultralytics writes them
        return "0-1"
    raise UserError(
        f"{path} takes floats and does not say of which range. "
        f"Tell it: --scale {' | '.join(SCALES)}."
    )


def _size(path: Path, sides: Sequence[Any], told: dict[str, str], options: Options) -> int:
    known = [side for side in sides if isinstance(side, int)]
    if not known and "imgsz" in told:
        known = list(ast.literal_eval(told["imgsz"]))
    if options.size:
        known = known or [options.size]
        if set(known) != {options.size}:
            raise UserError(f"{path} takes images of {known[0]} pixels, not of {options.size}.")
    if not known:
        raise UserError(f"{path} takes images of any size. Tell it in pixels: --size 64.")
    if len(set(known)) > 1:
        raise UserError(f"{path} takes images of {known} pixels; only square ones can be judged.")
    return known[0]


def _names(told: dict[str, str]) -> list[str] | None:
    """The class names in a model's metadata: a list, or Ultralytics' {number: name}."""
    try:
        content = ast.literal_eval(told["names"])
    except (KeyError, ValueError, SyntaxError):
        return None
    if isinstance(content, dict):
        content = [content[number] for number in sorted(content)]
    return [str(name) for name in content] if isinstance(content, list) else None
