"""What one process of the service predicts with: the classifier, a queue and its limits."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic_core import to_json

from signs.data import images
from signs.inference import heatmap, saliency
from signs.inference.classifier import Classifier, Metadata
from signs.inference.predictions import Prediction, predict_photos
from signs.serving.monitoring import Monitoring
from signs.serving.refused import overloaded

MAX_BATCH = 64
# Units of work that may wait for one worker. A photo of a traffic sign is about one unit, which
# takes one or two milliseconds; a large file is several. Work above the limit is refused at once,
# so that accepted work does not wait long.
MAX_WAITING = 128
BYTES_PER_UNIT = 64 * 2**10
# A larger file is predicted in a thread, so that the event loop goes on with other requests.
INLINE_BYTES = 4 * BYTES_PER_UNIT
# Photos that arrive together share one batch, which takes a third less time for each photo.
MAX_TOGETHER = 16

Sent = tuple[bytes, images.Box | None]  # a photo, and where the sign on it is


class Worker:
    """Predicts photos with the classifier in `folder`; all requests of one process share it.

    Raises:
        ClassifierError: the folder holds no usable classifier.
    """

    def __init__(self, folder: Path) -> None:
        # One thread: a worker for each core serves more than one worker with several threads.
        self.classifier = Classifier(folder, threads=1)
        metadata = self.classifier.metadata
        self.monitoring = Monitoring(metadata.class_ids)
        self.description = to_json(_describe(metadata))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="photos")
        self._arrived: list[tuple[Sent, asyncio.Future[Prediction]]] = []
        self._waiting = 0
        # ONNX Runtime plans its memory at the first run of each batch size.
        noise = np.random.default_rng(0).integers(0, 256, self.classifier.input_shape, np.uint8)
        photo = cv2.imencode(".png", noise)[1].tobytes()
        for count in (1, MAX_BATCH, 1):
            predict_photos(self.classifier, [photo] * count)
        self._explain(photo)

    def close(self) -> None:
        """Wait for the work that has begun."""
        self._thread.shutdown()

    async def predict(
        self, request_id: str, photos: list[bytes], box: images.Box | None = None
    ) -> list[Prediction]:
        """One prediction, or `{"error": why}`, for each photo, in order; the box is for all.

        Raises:
            Refused: too much work is waiting.
        """
        with self._counted(photos):
            if len(photos) == 1 and len(photos[0]) <= INLINE_BYTES:
                predictions = [await self._predict_together((photos[0], box))]
            else:
                predictions = await asyncio.get_running_loop().run_in_executor(
                    self._thread, predict_photos, self.classifier, photos, [box] * len(photos)
                )
        for prediction, photo in zip(predictions, photos, strict=True):
            self.monitoring.photo(request_id, prediction, photo)
        return predictions

    async def explain(self, photo: bytes, box: images.Box | None = None) -> bytes:
        """The occlusion map of the photo's most probable class, as a PNG file.

        Raises:
            Refused: too much work is waiting.
            ImageError: the photo cannot be used.
        """
        with self._counted([photo] * 8):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._explain, photo, box)

    def _explain(self, photo: bytes, box: images.Box | None = None) -> bytes:
        image = images.decode(photo)
        prepared = self.classifier.prepare([image], [images.region_of(box, image)])
        label = int(self.classifier.logits(prepared)[0].argmax())
        importance = saliency.occlusion_map(self.classifier, prepared[0], label)
        picture = heatmap.overlay(prepared[0], importance)
        return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()

    def refuse_overload(self) -> None:
        """Refuse a request before a body is read whose photo would wait too long."""
        if self._waiting >= MAX_WAITING:
            raise overloaded()

    @contextlib.contextmanager
    def _counted(self, photos: list[bytes]) -> Iterator[None]:
        """Count this work as waiting while the block runs, or refuse it."""
        # At most half of the limit: two large photos together must not shut out all others.
        units = min(MAX_WAITING // 2, len(photos) + sum(map(len, photos)) // BYTES_PER_UNIT)
        if self._waiting + units > MAX_WAITING:
            raise overloaded()
        self._waiting += units
        try:
            yield
        finally:
            self._waiting -= units

    async def _predict_together(self, sent: Sent) -> Prediction:
        """Predict a photo in one batch with the others that the event loop has read by now."""
        loop = asyncio.get_running_loop()
        if not self._arrived:
            loop.call_soon(self._predict_arrived, loop)
        future: asyncio.Future[Prediction] = loop.create_future()
        self._arrived.append((sent, future))
        return await future

    def _predict_arrived(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._arrived = self._arrived[:MAX_TOGETHER], self._arrived[MAX_TOGETHER:]
        if self._arrived:
            loop.call_soon(self._predict_arrived, loop)
        waiting = [(sent, future) for sent, future in batch if not future.done()]
        photos, boxes = [photo for (photo, _), _ in waiting], [box for (_, box), _ in waiting]
        try:
            predictions = predict_photos(self.classifier, photos, boxes)
        except Exception as error:
            for _, future in waiting:
                future.set_exception(error)
        else:
            for (_, future), prediction in zip(waiting, predictions, strict=True):
                future.set_result(prediction)


def _describe(metadata: Metadata) -> dict[str, Any]:
    """The content of GET /model."""
    provenance = metadata.provenance
    classes = zip(metadata.class_ids, metadata.names, strict=True)
    return {
        "version": metadata.version,
        **{key: provenance.get(key) for key in ("fingerprint", "dataset", "data")},
        "classes": [{"prediction": class_id, "name": name} for class_id, name in classes],
        "metrics": {"validation": provenance.get("validation")},
        "images": metadata.images.model_dump(),
        "threshold": metadata.threshold,
    }
