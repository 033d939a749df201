"""The service: `bentoml serve` predicts with the classifier that `dvc repro` wrote to models/.

    bentoml serve          # http://localhost:3000/demo
    make image             # as a container image

It needs the packages of requirements/service.txt, which has no TensorFlow. signs/serving/app.py is
its HTTP interface, docs/service.md its manual.
"""

import gc
import json
import os
from pathlib import Path
from typing import Any

import bentoml

from signs.inference import classifier
from signs.paths import CLASSIFIER
from signs.serving.app import Api
from signs.serving.worker import Worker

FOLDER = Path(__file__).parent / CLASSIFIER

_started: list[Worker] = []  # this process's one worker, once it has started


def _labels() -> dict[str, str]:
    """The origin of the model, as labels of the bento."""
    try:
        metadata = json.loads((FOLDER / classifier.METADATA).read_bytes())
        origin = {key: metadata["provenance"][key] for key in ("fingerprint", "dataset", "data")}
        return {"model": metadata["version"], **origin}
    except (OSError, ValueError, KeyError):
        return {}  # `check` explains what is wrong


class SignsService(bentoml.Service[Any]):  # type: ignore[misc]
    """A BentoML service whose requests go through `Api` first."""

    def to_asgi(self, is_main: bool = True) -> Api:
        """The application that each worker process runs."""
        return Api(super().to_asgi(is_main), lambda: _started[0], self.openapi_spec.asdict)


@bentoml.service(
    name="traffic_signs",
    labels=_labels(),
    workers=int(os.environ.get("SIGNS_WORKERS", "0")) or "cpu_count",
    service_class=SignsService,
)
class TrafficSigns:
    """Recognises the traffic sign on a photo, with its confidence, or says that it is unknown."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """End before any worker starts if there is no usable classifier."""
        try:
            classifier.Classifier(FOLDER, threads=1)
        except classifier.ClassifierError as error:
            raise SystemExit(f"ERROR: {error}") from None

    def __init__(self) -> None:
        self.worker = Worker(FOLDER)
        _started.append(self.worker)
        # Otherwise some request waits a tenth of a second for a collection of all imported objects.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Wait for the work that has begun."""
        self.worker.close()
