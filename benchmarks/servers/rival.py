"""The usual way with BentoML: an image parameter, and a call of the Keras model in the handler."""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image

from signs.inference.classifier import Metadata
from signs.paths import KERAS_MODEL


@bentoml.service(name="rival")
class Rival:
    """The same compact network, asked through Keras."""

    def __init__(self) -> None:
        import keras

        folder = Path(os.environ["CLASSIFIER"])
        self.metadata = Metadata.model_validate_json((folder / "classifier.json").read_bytes())
        self.model = keras.saving.load_model(KERAS_MODEL)
        size = self.metadata.images.size
        self.model(np.zeros((1, size, size, 3), np.float32))

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, image: Image) -> dict[str, Any]:
        """Class and probability."""
        size = self.metadata.images.size
        pixels = np.asarray(image.convert("RGB").resize((size, size)), np.float32)
        logits = np.asarray(self.model(pixels[None]))[0].astype(np.float64)
        exponentials = np.exp(logits - logits.max())
        best = int(logits.argmax())
        return {
            "prediction": self.metadata.class_ids[best],
            "name": self.metadata.names[best],
            "confidence": float(exponentials[best] / exponentials.sum()),
        }
