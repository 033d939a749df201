"""Metrics for Prometheus, a log of requests and a log of predictions, for one worker."""

import functools
import hashlib
import logging
import math
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bentoml
from pydantic_core import to_json

from signs.inference.predictions import Prediction
from signs.serving.settings import number

# Predictions that a worker logs each second, at most; it still counts the others. This is enough
# for a drift report, and under load it spares the disk and the response times.
LOGGED_PER_SECOND = number("SIGNS_LOGGED_PER_SECOND", 20)
# The folder in which photos of logged predictions are kept; unset: they are not kept.
PHOTOS = os.environ.get("SIGNS_KEEP_PHOTOS")
# Of these, only unknown ones and those of a lower confidence, for `signs label`.
KEEP_BELOW = number("SIGNS_KEEP_BELOW", math.inf)
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_log = logging.getLogger("bentoml.signs")


class Monitoring:
    """Counts and logs the requests and photos of one worker."""

    def __init__(self, class_ids: list[int]) -> None:
        # A worker knows only now where all workers' metrics come together.
        from prometheus_client import Counter, Histogram

        # uvicorn would format a line for each request that nothing prints.
        logging.getLogger("uvicorn.access").propagate = False
        seconds = Histogram(
            "signs_request_duration_seconds",
            "Time from a request's headers to its response",
            labelnames=["path", "status"],
            buckets=BUCKETS,
        )
        predictions = Counter(
            "signs_predictions_total",
            "Predicted photos, by class id; unknown for those that were not accepted",
            labelnames=["prediction"],
        )
        self._counts = {i: predictions.labels(prediction=str(i)) for i in class_ids}
        self._unknown = predictions.labels(prediction="unknown")
        self._refused = Counter(
            "signs_photos_refused_total",
            "Photos that could not be used, alone or in a batch",
        )
        self._duration = functools.cache(
            lambda path, status: seconds.labels(path=path, status=str(status))
        )
        self._second, self._logged = 0, 0
        self._enabled = True

    def request(
        self, request_id: str, method: str, path: str, status: int, seconds: float, **details: Any
    ) -> None:
        """Count and log a request that has ended; `path` must be one of the service's own."""
        self._duration(path, status).observe(seconds)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "request_id": request_id, "method": method, "path": path}
        entry |= {"status": status, "ms": round(seconds * 1000, 2)} | details
        # One write, so that lines of several workers do not mix. The logging module takes three
        # times as long, because it looks up where it was called from.
        sys.stdout.buffer.write(to_json(entry) + b"\n")
        sys.stdout.buffer.flush()

    def photo(self, request_id: str, prediction: Prediction, photo: bytes) -> None:
        """Count a photo and, within the limit, log its prediction."""
        if "error" in prediction:
            self._refused.inc()
            return
        (self._counts[prediction["prediction"]] if prediction["known"] else self._unknown).inc()
        second = int(time.monotonic())
        self._logged = self._logged + 1 if second == self._second else 1
        self._second = second
        if self._enabled and self._logged <= LOGGED_PER_SECOND:
            try:
                self._log(request_id, prediction, photo)
            except OSError as error:
                self._enabled = False
                _log.warning("Predictions are not logged: %s", error)

    def _log(self, request_id: str, prediction: Prediction, photo: bytes) -> None:
        with bentoml.monitor("predictions") as log:
            log.log(request_id, name="request", role="feature", data_type="categorical")
            for name in ("prediction", "name", "confidence", "known", "model"):
                kind = "numerical" if name == "confidence" else "categorical"
                log.log(prediction[name], name=name, role="prediction", data_type=kind)
        if PHOTOS and (not prediction["known"] or prediction["confidence"] < KEEP_BELOW):
            folder = Path(PHOTOS)
            folder.mkdir(parents=True, exist_ok=True)
            # Clients may use an id again; no photo is lost by that.
            name = f"{request_id}-{hashlib.sha256(photo).hexdigest()[:12]}"
            (folder / name).write_bytes(photo)


def metrics() -> tuple[bytes, str]:
    """The metrics of all worker processes in Prometheus's format, and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
