"""The service: `bentoml serve` predicts with the classifier that `dvc repro` wrote to models/.

    bentoml serve          # http://localhost:3000
    make image             # as a container image

It needs the packages of requirements/service.txt, which has no TensorFlow. signs/serving/app.py is
its HTTP interface, docs/service.md its manual.
"""

import gc
import json
import os
from pathlib import Path
from typing import Any, cast

import bentoml

from signs.errors import UserError
from signs.inference import classifier
from signs.paths import CLASSIFIER
from signs.serving.app import Endpoints, application
from signs.serving.middleware import ApiKeys, Requests, api_keys
from signs.serving.schemas import OnePhoto, Photos, Picture, Prediction
from signs.serving.settings import number
from signs.serving.worker import Worker

FOLDER = Path(__file__).parent / CLASSIFIER


def _labels() -> dict[str, str]:
    """The origin of the model, as labels of the bento."""
    try:
        metadata = json.loads((FOLDER / classifier.METADATA).read_bytes())
        origin = {key: metadata["provenance"][key] for key in ("fingerprint", "dataset", "data")}
        return {"model": metadata["version"], **origin}
    except (OSError, ValueError, KeyError):
        return {}  # `check` explains what is wrong


def _is_traced() -> bool:
    """Whether BentoML's settings name an exporter of traces."""
    file = Path(os.environ.get("BENTOML_CONFIG") or os.devnull)
    settings = file.read_text(encoding="utf-8") if file.exists() else ""
    return "exporter_type" in settings + os.environ.get("BENTOML_CONFIG_OPTIONS", "")


def _worker() -> Worker:
    """This process's one worker, which exists before the first request."""
    worker: Worker = bentoml.get_current_service().worker
    return worker


def _service() -> Any:
    """The service below, which is no class any more."""
    return TrafficSigns


endpoints = Endpoints(_worker, lambda: _service().openapi_spec.asdict())


@bentoml.service(
    name="traffic_signs",
    labels=_labels(),
    workers=number("SIGNS_WORKERS", 0) or "cpu_count",
    # Ours know all paths, so that clients cannot make up new time series.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # It takes time in each request, though no trace is kept.
    tracing={} if _is_traced() else {"excluded_urls": ".*"},
)
@bentoml.asgi_app(application(endpoints))
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
        # Otherwise some request waits a tenth of a second for a collection of all imported objects.
        gc.collect()
        gc.freeze()

    # BentoML's own way to the same endpoints, for its client and its tools. What they return is a
    # response, which BentoML takes in place of the declared output.

    @bentoml.api(route="/api/predict", input_spec=OnePhoto)  # type: ignore[untyped-decorator]
    async def predict(self, image: Any, box: str | None = None) -> Prediction:
        """Recognise the sign on one photo."""
        return cast("Prediction", await endpoints.predict(image))

    @bentoml.api(route="/api/predict_batch", input_spec=Photos)  # type: ignore[untyped-decorator]
    async def predict_batch(self, images: Any) -> list[dict[str, Any]]:
        """Recognise the signs on up to 64 photos; an unusable one has an `error`."""
        return cast("list[dict[str, Any]]", await endpoints.predict_batch(images))

    @bentoml.api(route="/api/explain", input_spec=OnePhoto)  # type: ignore[untyped-decorator]
    async def explain(self, image: Any, box: str | None = None) -> Picture:
        """Show which parts of a photo led to the prediction."""
        return cast("Picture", await endpoints.explain(image))

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Wait for the work that has begun."""
        self.worker.close()


_service().add_asgi_middleware(
    Requests,
    monitoring=lambda: _worker().monitoring,
    paths={"/schema.json", *endpoints.paths, *(api.route for api in _service().apis.values())},
    prefix=os.environ.get("SIGNS_PATH_PREFIX", ""),
)
try:
    if keys := api_keys(os.environ):
        _service().add_asgi_middleware(ApiKeys, **keys)
except UserError as error:
    raise SystemExit(f"ERROR: {error}") from None
