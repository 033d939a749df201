"""The service: `bentoml serve` answers with the classifier that `dvc repro` left in models/.

    bentoml serve                     # http://localhost:3000/demo
    make bento && make image          # packaged

Needs what requirements/service.txt locks: no TensorFlow. The HTTP interface is signs/serving/app.py.
"""

import gc
import json
import os
from pathlib import Path
from typing import Any

import bentoml

from signs.inference import classifier
from signs.serving.app import Api, App, Worker

FOLDER = Path(__file__).parent / classifier.FOLDER

_started: list[Worker] = []  # one a worker


def _labels() -> dict[str, str]:
    """Where the model came from, for the bento."""
    try:
        about = json.loads((FOLDER / classifier.METADATA).read_bytes())
        provenance = about["provenance"]
        return {
            "model": about["version"],
            "commit": provenance["commit"],
            "dataset": provenance["dataset"],
            "data": provenance["data"],
        }
    except (OSError, ValueError, KeyError):
        return {}  # said in full when it is loaded


class Fronted(bentoml.Service[Any]):  # type: ignore[misc]
    """A service whose own interface stands before all that BentoML does with a request."""

    def to_asgi(self, is_main: bool = True) -> App:
        """The application that a worker runs."""
        app: App = super().to_asgi(is_main)
        return Api(app, started=lambda: _started[0], openapi=self.openapi_spec.asdict)


@bentoml.service(
    name="traffic_signs",
    labels=_labels(),
    workers=int(os.environ.get("SIGNS_WORKERS", "0")) or "cpu_count",
    service_class=Fronted,
)
class TrafficSigns:
    """Names the traffic sign on a photo, says how sure it is, and when it does not know."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Refuse to start, before there are workers, without a usable classifier."""
        try:
            classifier.Classifier(FOLDER, threads=1)
        except classifier.ClassifierError as error:
            raise SystemExit(f"ERROR: {error}") from None

    def __init__(self) -> None:
        self.worker = Worker(FOLDER)
        _started.append(self.worker)
        # A full collection over what was imported takes a tenth of a second, in some request.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let what is under way end."""
        self.worker.close()
