"""The HTTP interface of the service, as an ASGI application around BentoML's own.

It stands before BentoML's router and takes a request's body as it comes: BentoML's handling of
typed parameters costs more than the network does, fetches addresses that it finds in a file
field, and decodes whatever it is sent (README, "Speed", has the ratios).
"""

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import yaml
from pydantic_core import to_json

from signs.data import images
from signs.inference import heatmap, saliency
from signs.inference.classifier import Classifier
from signs.inference.predictions import Prediction, predict_photos
from signs.serving import forms
from signs.serving.monitoring import Monitoring

MAX_BATCH = 64
MAX_BODY = 64 * 2**20
# Bytes of bodies that one worker holds at a time.
MAX_HELD = 4 * MAX_BODY
# Seconds that a body may take to arrive.
BODY_TIMEOUT = 10.0
# Work that may wait for one worker. A photo of a traffic sign is about one unit, which takes one
# or two milliseconds; large files are more. What comes above that is refused at once, so that
# what is accepted is answered soon.
MAX_WAITING = 128
BYTES_PER_UNIT = 64 * 2**10
RETRY_AFTER = 1
# A larger body is worked on beside the event loop, which goes on answering the others.
INLINE_BYTES = 4 * BYTES_PER_UNIT
# Photos that arrived together are answered together, which takes a third less time for each.
MAX_TOGETHER = 16

BENTOML_PATHS = {"/", "/livez", "/healthz", "/readyz", "/metrics", "/schema.json"}
BENTOML_FILES = "/static_content/"
HERE = Path(__file__).parent
# The page and what it shows come from here, and nothing that it is given can call elsewhere.
PAGE_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

T = TypeVar("T")

_log = logging.getLogger("bentoml.signs")


@dataclass(slots=True)
class Request:
    """A request on its way: what the handlers need of the ASGI scope."""

    id: str
    method: str
    headers: dict[bytes, bytes]
    receive: Receive
    held: int = 0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    """An answer on its way."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class Refused(Exception):  # noqa: N818  # an answer, not an error of ours
    """The request gets an error answer; the text tells the client why."""

    def __init__(self, status: int, why: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(why)
        self.status = status
        self.headers = list(headers)


class Gone(Exception):  # noqa: N818
    """The client hung up; there is nobody to answer."""


class Worker:
    """What one worker answers with; shared by the requests it handles.

    Args:
        folder: the classifier's.

    Raises:
        ClassifierError: there is no usable classifier.
    """

    def __init__(self, folder: Path) -> None:
        # One thread each: a worker for each core brings more than several threads in one.
        self.classifier = Classifier(folder, threads=1)
        about = self.classifier.metadata
        self.monitoring = Monitoring(about.class_ids)
        self.model = to_json(_describe(self.classifier))
        self.page = (HERE / "demo.html").read_bytes()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="photos")
        self._arrived: list[tuple[bytes, asyncio.Future[Prediction]]] = []
        self._waiting = 0
        self.held = 0
        # ONNX Runtime plans its memory at the first run of each size.
        size = about.images.size
        noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        photo = cv2.imencode(".png", noise)[1].tobytes()
        for count in (1, MAX_BATCH, 1):
            predict_photos(self.classifier, [photo] * count)
        self._explain(photo)

    def close(self) -> None:
        """Let what is under way end."""
        self._thread.shutdown()

    async def answers(self, request: Request, photos: list[bytes]) -> list[Prediction]:
        """One answer for each photo.

        Raises:
            Refused: there is too much to do.
        """
        with self._counted(photos):
            if len(photos) == 1 and len(photos[0]) <= INLINE_BYTES:
                answers = [await self._answer_together(photos[0])]
            else:
                answers = await self._beside(predict_photos, self.classifier, photos)
        for answer, photo in zip(answers, photos, strict=True):
            self.monitoring.photo(request.id, answer, photo)
        return answers

    async def explain(self, photo: bytes) -> bytes:
        """What led to the answer, as a PNG file.

        Raises:
            Refused: there is too much to do.
            ImageError: the photo cannot be used.
        """
        with self._counted([photo] * 8):
            return await self._beside(self._explain, photo)

    def _explain(self, photo: bytes) -> bytes:
        prepared = self.classifier.prepare([images.decode(photo)])
        label = int(self.classifier.logits(prepared)[0].argmax())
        importance = saliency.occlusion_map(self.classifier, prepared[0], label)
        picture = heatmap.overlay(prepared[0], importance)
        return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()

    def refuse_overload(self) -> None:
        """Refuse, before its body is read, what would wait too long."""
        if self._waiting >= MAX_WAITING:
            raise _overloaded()

    @contextlib.contextmanager
    def _counted(self, photos: list[bytes]) -> Iterator[None]:
        """Count this work among what waits, or refuse it."""
        # No photo takes more than half: two large ones do not shut all others out.
        size = sum(map(len, photos))
        units = min(MAX_WAITING // 2, len(photos) + size // BYTES_PER_UNIT)
        if self._waiting + units > MAX_WAITING:
            raise _overloaded()
        self._waiting += units
        try:
            yield
        finally:
            self._waiting -= units

    async def _beside(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _answer_together(self, photo: bytes) -> Prediction:
        """Prediction a photo in one batch with all that the event loop has read by now."""
        loop = asyncio.get_running_loop()
        if not self._arrived:
            loop.call_soon(self._answer_arrived, loop)
        future: asyncio.Future[Prediction] = loop.create_future()
        self._arrived.append((photo, future))
        return await future

    def _answer_arrived(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._arrived = self._arrived[:MAX_TOGETHER], self._arrived[MAX_TOGETHER:]
        if self._arrived:
            loop.call_soon(self._answer_arrived, loop)
        waiting = [(photo, future) for photo, future in batch if not future.done()]
        try:
            answers = predict_photos(self.classifier, [photo for photo, _ in waiting])
        except Exception as error:
            for _, future in waiting:
                future.set_exception(error)
        else:
            for (_, future), answer in zip(waiting, answers, strict=True):
                future.set_result(answer)


class Api:
    """The application: routes, bodies, errors.

    Args:
        app: BentoML's, which answers the paths that are not ours.
        started: gives the worker's `Worker`, which exists before the first request.
        openapi: gives BentoML's own OpenAPI document.
    """

    def __init__(
        self, app: App, started: Callable[[], Worker], openapi: Callable[[], dict[str, Any]]
    ) -> None:
        self._app = app
        self._worker = started
        self._openapi = openapi
        self._routes: dict[str, tuple[str, Callable[[Request], Awaitable[Reply]]]] = {
            "/predict": ("POST", self._predict),
            "/predict_batch": ("POST", self._predict_batch),
            "/explain": ("POST", self._explain),
            "/model": ("GET", self._model),
            "/demo": ("GET", self._demo),
            "/docs.json": ("GET", self._docs),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3.0."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = (
            given.decode() if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
        )
        request = Request(request_id, method, headers, receive)
        try:
            route = self._routes.get(path)
            if route is None:
                if path not in BENTOML_PATHS and not path.startswith(BENTOML_FILES):
                    path = "other"
                    raise Refused(404, "there is nothing at this path; see /docs.json")
                if method in ("GET", "HEAD"):
                    await self._app(scope, receive, send)
                    return
            allowed = route[0] if route else "GET"
            if method != allowed and not (method == "HEAD" and allowed == "GET"):
                raise Refused(405, f"use {allowed} here", (b"allow", allowed.encode()))
            assert route is not None  # BentoML's own went there
            reply = await route[1](request)
        except Gone:
            return
        except Refused as refused:
            reply = Reply(to_json({"error": str(refused)}), refused.status, headers=refused.headers)
            request.details["error"] = str(refused)
        except Exception:
            _log.exception("Request %s failed", request_id)
            reply = Reply(to_json({"error": f"internal error, request {request_id}"}), 500)
        finally:
            if request.held:
                self._worker().held -= request.held
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [
                    (b"content-type", reply.content_type),
                    (b"content-length", str(len(reply.body)).encode()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    *reply.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": reply.body})
        self._worker().monitoring.request(
            request_id,
            method,
            path,
            reply.status,
            time.perf_counter() - started,
            **request.details,
        )

    async def _predict(self, request: Request) -> Reply:
        photo = await self._photo(request)
        answer = (await self._worker().answers(request, [photo]))[0]
        if "error" in answer:
            raise _refused_photo(answer["error"])
        for key in ("prediction", "confidence", "known"):
            request.details[key] = answer[key]
        return Reply(to_json(answer))

    async def _predict_batch(self, request: Request) -> Reply:
        worker = self._worker()
        worker.refuse_overload()
        body = await self._body(request, MAX_BODY)
        kind = request.headers.get(b"content-type", b"").decode("latin-1")
        if not kind.lower().startswith("multipart/form-data"):
            raise Refused(415, "send a multipart form with 1 to 64 files in fields 'images'")
        photos = _files(body, kind, "images", MAX_BATCH)
        if max(map(len, photos)) > images.MAX_BYTES:
            raise _too_large(images.MAX_BYTES)
        request.details["photos"] = len(photos)
        return Reply(to_json(await worker.answers(request, photos)))

    async def _explain(self, request: Request) -> Reply:
        photo = await self._photo(request)
        try:
            picture = await self._worker().explain(photo)
        except images.ImageError as error:
            raise _refused_photo(str(error)) from error
        return Reply(picture, content_type=b"image/png")

    async def _model(self, _: Request) -> Reply:
        return Reply(self._worker().model)

    async def _demo(self, _: Request) -> Reply:
        headers = [(b"content-security-policy", PAGE_POLICY), (b"cache-control", b"no-cache")]
        return Reply(self._worker().page, content_type=b"text/html; charset=utf-8", headers=headers)

    async def _docs(self, _: Request) -> Reply:
        ours = yaml.safe_load((HERE / "openapi.yaml").read_text(encoding="utf-8"))
        document = self._openapi()
        document["info"] = ours["info"]
        document["paths"] = ours["paths"] | document["paths"]
        document["components"] = ours["components"]
        return Reply(to_json(document))

    async def _photo(self, request: Request) -> bytes:
        """The one photo of a request, from a form or as the body itself."""
        self._worker().refuse_overload()
        body = await self._body(request, images.MAX_BYTES)
        kind = request.headers.get(b"content-type", b"")
        lower = kind.lower()
        if lower.startswith((b"image/", b"application/octet-stream")):
            return body
        if lower.startswith(b"multipart/form-data"):
            return _files(body, kind.decode("latin-1"), "image", 1)[0]
        raise Refused(
            415, "send the photo as a file in form field 'image', or as the body with type image/*"
        )

    async def _body(self, request: Request, limit: int) -> bytes:
        declared = request.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        worker = self._worker()
        chunks = []
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                more = True
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    request.held += len(chunk)
                    worker.held += len(chunk)
                    if request.held > limit:
                        raise _too_large(limit)
                    if worker.held > MAX_HELD:
                        raise _overloaded()
                    chunks.append(chunk)
        except TimeoutError as error:
            why = f"the body did not arrive within {BODY_TIMEOUT:.0f} s"
            raise Refused(408, why, (b"connection", b"close")) from error
        return b"".join(chunks)


def _files(body: bytes, content_type: str, name: str, most: int) -> list[bytes]:
    """The files in the form's fields of this name, which must be all there is."""
    try:
        parts = forms.parse(body, content_type, most)
    except forms.TooManyPartsError as error:
        raise Refused(422, f"send at most {most} file{'s' * (most > 1)} in '{name}'") from error
    except forms.FormError as error:
        raise Refused(400, str(error)) from error
    if not parts:
        raise Refused(422, f"the form has no field '{name}'")
    for part in parts:
        if part.name != name:
            raise Refused(422, f"the form has a field {part.name[:40]!r}, wanted is '{name}'")
        if not part.is_file:
            raise Refused(422, f"'{name}' must be a file, not text; addresses are not fetched")
    return [part.content for part in parts]


def _refused_photo(why: str) -> Refused:
    return Refused(413 if why == images.TOO_MANY else 400, why)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"more than {limit // 2**20} MB")


def _overloaded() -> Refused:
    retry = (b"retry-after", str(RETRY_AFTER).encode())
    return Refused(503, "too much to do; try again shortly", retry)


def _describe(classifier: Classifier) -> dict[str, Any]:
    about = classifier.metadata
    return {
        "version": about.version,
        "commit": about.provenance.get("commit"),
        "dataset": about.provenance.get("dataset"),
        "data": about.provenance.get("data"),
        "classes": [
            {"prediction": class_id, "name": name}
            for class_id, name in zip(about.class_ids, about.names, strict=True)
        ],
        "metrics": {"validation": about.provenance.get("validation")},
        "images": about.images.model_dump(),
        "threshold": about.threshold,
    }
