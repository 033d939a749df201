"""The exported classifier: one folder that holds all that naming a sign takes.

    model.onnx        uint8 (N, size, size, channels) → logits (N, classes)
    classifier.json   classes, image settings, temperature, thresholds, provenance

`Classifier` needs NumPy, OpenCV and ONNX Runtime, but no TensorFlow.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from signs import files
from signs.data import images
from signs.errors import UserError
from signs.params import ImageSettings
from signs.paths import CLASSIFIER, PRETRAINED

BATCH = 256
MODEL, METADATA = "model.onnx", "classifier.json"
PACKAGE = Path(__file__).parents[1]

Inputs = npt.NDArray[np.uint8]  # prepared images (N, size, size, channels)
Logits = npt.NDArray[np.float32]  # (N, classes)
Floats = npt.NDArray[np.float64]
# A photo to predict: its path, the bytes of its file, or its pixels as RGB, uint8 (H, W, 3).
Photo = str | Path | bytes | images.Image


class ClassifierError(UserError):
    """The folder holds no usable classifier."""


class Metadata(BaseModel):
    """The content of classifier.json."""

    model_config = ConfigDict(extra="forbid")

    version: str  # first 12 digits of sha256
    sha256: str  # of model.onnx
    class_ids: list[int]  # the data set's number of each class, in the order of the logits
    names: list[str]  # in the same order
    images: ImageSettings  # how a photo becomes the network's input
    temperature: float = Field(gt=0)  # what logits are divided by before the softmax
    threshold: float = Field(ge=0, le=1)  # confidence below which the prediction is "unknown"
    energy_threshold: float  # energy score below which it is "unknown", too
    provenance: dict[str, Any]  # fingerprint, data set, its digest, params, validation metrics


class Classifier:
    """Names the sign on a photo."""

    def __init__(self, folder: str | Path = CLASSIFIER, threads: int = 0) -> None:
        """Load the classifier in a folder, or a released one, such as "gtsrb", by its name.

        With 0 threads, ONNX Runtime takes all cores.

        Raises:
            ClassifierError: no such name; missing, truncated or contradicting files.
        """
        folder = folder_of(folder)
        content, metadata = read(folder)
        self.metadata = metadata
        try:
            self._session = session(content, threads)
            self._input = self._session.get_inputs()[0].name
            classes = self.logits(np.zeros((1, *self.input_shape), np.uint8)).shape[1]
        except Exception as error:  # ONNX Runtime's have no other base
            raise ClassifierError(
                f"{folder / MODEL} cannot be used with the image settings in {METADATA}: {error}"
            ) from error
        if not classes == len(metadata.class_ids) == len(metadata.names):
            raise ClassifierError(
                f"{folder / MODEL} has {classes} classes, {METADATA} has "
                f"{len(metadata.class_ids)} class ids and {len(metadata.names)} names."
            )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
        self, photos: Photo, box: images.Box | None = None
    ) -> dict[str, Any]: ...
    @overload
    def predict(
        self, photos: Sequence[Photo], box: images.Box | None = None
    ) -> list[dict[str, Any]]: ...
    def predict(
        self, photos: Photo | Sequence[Photo], box: images.Box | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Name the sign on a photo; a list of photos gives a list, in the same order.

        A prediction is what the service responds: `predictions.predict` describes the fields. The
        box (x1, y1, x2, y2 in pixels) says where the sign is; None: the photo shows little else.

        Raises:
            ImageError: the photo cannot be used. In a list, its prediction is `{"error": why}`.
        """
        from signs.inference.predictions import predict_photos  # which imports this file

        if isinstance(photos, (str, Path, bytes, np.ndarray)):
            (prediction,) = predict_photos(self, [_given(photos)], [box])
            if "error" in prediction:
                raise images.ImageError(prediction["error"])
            return prediction
        result = []
        for start in range(0, len(photos), BATCH):
            part = [_given(photo) for photo in photos[start : start + BATCH]]
            result += predict_photos(self, part, [box] * len(part))
        return result

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(size, size, channels) of the network's input."""
        return self.metadata.images.shape

    def logits(self, prepared: Inputs) -> Logits:
        """Prepared images, uint8 (N, size, size, channels) → logits, float32 (N, classes)."""
        result: Logits = self._session.run(None, {self._input: prepared})[0]
        return result

    def probabilities(self, prepared: Inputs) -> Floats:
        """Prepared images, uint8 (N, size, size, channels) → calibrated (N, classes)."""
        return probabilities(self.logits(prepared), self.metadata.temperature)

    def classify(self, logits: Logits) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Logits (N, classes) → calibrated probabilities (N, classes), (N,) whether accepted.

        If not, the prediction is "unknown": its confidence is too low to tell one class from
        another, or its energy score to tell the known classes from everything else.
        """
        confidence = probabilities(logits, self.metadata.temperature)
        accepted = (confidence.max(axis=1) >= self.metadata.threshold) & (
            energy_scores(logits) >= self.metadata.energy_threshold
        )
        return confidence, accepted

    def accepted(self, logits: Logits) -> npt.NDArray[np.bool_]:
        """Logits (N, classes) → (N,) whether the prediction is accepted."""
        return self.classify(logits)[1]

    def prepare(
        self, photos: Sequence[images.Image], regions: Sequence[images.Region | None] | None = None
    ) -> Inputs:
        """Decoded photos, RGB uint8 (H, W, 3) of any size → (N, size, size, channels)."""
        pairs = zip(photos, regions or [None] * len(photos), strict=True)
        rows = [images.prepare(photo, self.metadata.images, region) for photo, region in pairs]
        return np.stack(rows) if rows else np.zeros((0, *self.input_shape), np.uint8)


def released() -> list[str]:
    """Names of the classifiers that come with this project."""
    return sorted(file.parent.name for file in _pretrained().glob(f"*/{METADATA}"))


def folder_of(name_or_folder: str | Path) -> Path:
    """The folder of a classifier; a text may also be the name of a released one.

    Raises:
        ClassifierError: a name that is neither.
    """
    folder = Path(name_or_folder)
    if isinstance(name_or_folder, Path) or folder.name != name_or_folder:
        return folder
    if name_or_folder in released():
        return _pretrained() / name_or_folder
    if not folder.exists():
        raise ClassifierError(
            f"{folder} is neither a folder nor a released classifier ({', '.join(released())})."
        )
    return folder


def _pretrained() -> Path:
    """Where the released classifiers are: a wheel has them inside the package."""
    packed = PACKAGE / PRETRAINED
    return packed if packed.exists() else PACKAGE.parent / PRETRAINED


def _given(photo: Photo) -> Path | bytes | images.Image:
    return Path(photo) if isinstance(photo, str) else photo


def probabilities(logits: Logits, temperature: float = 1.0) -> Floats:
    """Logits (N, classes) → probabilities (N, classes), each row sums to 1."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def energy_scores(logits: Logits) -> Floats:
    """Logits (N, classes) → (N,), higher for what is like the training photos.

    Logarithm of the sum of exponentials: the negative free energy of W. Liu et al.,
    "Energy-based Out-of-distribution Detection" (NeurIPS 2020). Unlike the confidence it
    tells two classes that are both likely from none that is.
    """
    highest = logits.max(axis=1, keepdims=True).astype(np.float64)
    scores: Floats = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    return scores


def session(content: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """A loaded ONNX model; with 0 threads, ONNX Runtime takes all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, prepared: Inputs) -> Logits:
    """Logits of a loaded ONNX model, as `Classifier.logits`; batches of 256 images."""
    name = session.get_inputs()[0].name
    parts = [prepared[start : start + BATCH] for start in range(0, len(prepared), BATCH)]
    parts = [session.run(None, {name: np.ascontiguousarray(part)})[0] for part in parts]
    return np.concatenate(parts)


def read(folder: Path, model: str = MODEL) -> tuple[bytes, Metadata]:
    """The bytes of the model file in a classifier's folder, and its classifier.json.

    Raises:
        ClassifierError: a file is missing or truncated, or the two do not belong together.
    """
    try:
        content = (folder / model).read_bytes()
        metadata = Metadata.model_validate_json((folder / METADATA).read_bytes())
    except FileNotFoundError as error:
        raise ClassifierError(
            f"There is no classifier in {folder} ({error.filename} is missing). "
            "`dvc repro` trains one, `dvc pull` fetches the one that was committed."
        ) from error
    except ValidationError as error:
        raise ClassifierError(f"{folder / METADATA} cannot be used: {error}") from error
    if hashlib.sha256(content).hexdigest() != metadata.sha256:
        raise ClassifierError(
            f"{folder / model} is truncated or belongs to another {METADATA}. "
            "`dvc repro -f train` makes it anew."
        )
    return content, metadata


def write(folder: Path, model: bytes, **metadata: Any) -> None:
    """Write a classifier folder: an ONNX file's bytes, and all other fields of `Metadata`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(model)
    describe(folder, MODEL, **metadata)


def describe(folder: Path, model: str, **metadata: Any) -> None:
    """Write the classifier.json of a model file in that folder; fields as `Metadata` has them."""
    sha256 = hashlib.sha256((folder / model).read_bytes()).hexdigest()
    content = Metadata(version=sha256[:12], sha256=sha256, **metadata)
    files.write_json(folder / METADATA, content.model_dump())
