"""What a running service tells of itself: metrics, a log of requests, a log of predictions."""

import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bentoml
from pydantic_core import to_json

from signs.inference.predictions import Prediction

# More predictions a second than this, and worker, are counted but not logged: enough for a drift
# report, and neither the disk nor the answers suffer under load.
LOGGED_PER_SECOND = int(os.environ.get("SIGNS_LOGGED_PER_SECOND", "20"))
# A folder: photos of logged predictions are kept there, too. Mind whose photos they are.
PHOTOS = os.environ.get("SIGNS_KEEP_PHOTOS")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_log = logging.getLogger("bentoml.signs")


class Monitoring:
    """Counts and logs for one worker of the service."""

    def __init__(self, class_ids: list[int]) -> None:
        # uvicorn would make up a line for each request, only to find that nobody wants it.
        logging.getLogger("uvicorn.access").propagate = False
        self._seconds = bentoml.metrics.Histogram(
            name="signs_request_duration_seconds",
            documentation="Time from a request's headers to its answer",
            labelnames=["path", "status"],
            buckets=BUCKETS,
        )
        predictions = bentoml.metrics.Counter(
            name="signs_predictions_total",
            documentation="Photos answered, by class id; unknown for those better left open",
            labelnames=["prediction"],
        )
        self._counts = {i: predictions.labels(prediction=str(i)) for i in class_ids}
        self._unknown = predictions.labels(prediction="unknown")
        self._refused = bentoml.metrics.Counter(
            name="signs_photos_refused_total",
            documentation="Photos that could not be used, alone or in a batch",
        )
        self._durations: dict[tuple[str, int], Any] = {}
        self._window, self._logged = 0, 0
        self._enabled = LOGGED_PER_SECOND > 0

    def request(
        self, request_id: str, method: str, path: str, status: int, seconds: float, **details: Any
    ) -> None:
        """One request and how it ended; `path` must be one of the service's own."""
        duration = self._durations.get((path, status))
        if duration is None:
            duration = self._seconds.labels(path=path, status=str(status))
            self._durations[path, status] = duration
        duration.observe(seconds)
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "method": method,
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 2),
        }
        # As one write: the lines of several workers do not mix. The logging module takes thrice
        # as long to find out where it was called from.
        sys.stdout.buffer.write(to_json(entry | details) + b"\n")
        sys.stdout.buffer.flush()

    def photo(self, request_id: str, answer: Prediction, photo: bytes) -> None:
        """One photo and what was answered."""
        if "error" in answer:
            self._refused.inc()
            return
        (self._counts[answer["prediction"]] if answer["known"] else self._unknown).inc()
        if self._enabled and self._may_log():
            try:
                self._log(request_id, answer, photo)
            except OSError as error:
                self._enabled = False
                _log.warning("Predictions are not logged: %s", error)

    def _may_log(self) -> bool:
        second = int(time.monotonic())
        if second != self._window:
            self._window, self._logged = second, 0
        self._logged += 1
        return self._logged <= LOGGED_PER_SECOND

    def _log(self, request_id: str, answer: Prediction, photo: bytes) -> None:
        with bentoml.monitor("predictions") as log:
            log.log(request_id, name="request", role="feature", data_type="categorical")
            for name, kind in (
                ("prediction", "categorical"),
                ("name", "categorical"),
                ("confidence", "numerical"),
                ("known", "categorical"),
                ("model", "categorical"),
            ):
                log.log(answer[name], name=name, role="prediction", data_type=kind)
        if PHOTOS:
            folder = Path(PHOTOS)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{request_id}-{self._logged}").write_bytes(photo)
