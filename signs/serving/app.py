"""The HTTP interface of the service: an ASGI application in front of BentoML's own.

It reads the body of a request as it arrives. BentoML's typed parameters take longer than the
network does, download the addresses that they find in a file field, and decode any file they get
(docs/speed.md compares the two).
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_json

from signs.data import images
from signs.serving import forms
from signs.serving.worker import MAX_BATCH, OverloadError, Worker

MAX_BODY = 64 * 2**20
# Bytes of bodies that one worker holds at a time.
MAX_HELD = 4 * MAX_BODY
# Seconds that a body may take to arrive.
BODY_TIMEOUT = 10.0
RETRY_AFTER = (b"retry-after", b"1")  # seconds

BENTOML_PATHS = {"/", "/livez", "/healthz", "/readyz", "/metrics", "/schema.json"}
BENTOML_FILES = "/static_content/"
HERE = Path(__file__).parent
# The page loads nothing from other hosts and sends nothing to them.
PAGE_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = [(b"content-security-policy", PAGE_POLICY), (b"cache-control", b"no-cache")]
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

_log = logging.getLogger("bentoml.signs")


@dataclass(slots=True)
class Request:
    """What the handlers need of a request.

    Attributes:
        id: the client's X-Request-ID, or a random one.
        method: in upper case.
        path: without the query.
        headers: by lower-case name.
        receive: gives the next ASGI message.
        held: bytes of the body that were read.
        details: further fields of its line in the log.
    """

    id: str
    method: str
    path: str
    headers: dict[bytes, bytes]
    receive: Receive
    held: int = 0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    """A response: body, status, content type, and headers beside those that all responses have."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: list[Header] = field(default_factory=list)


class Refused(Exception):  # noqa: N818  # the client's error, not the service's
    """The client gets an error response; the text says why."""

    def __init__(self, status: int, why: str, *headers: Header) -> None:
        super().__init__(why)
        self.status = status
        self.headers = list(headers)


class Gone(Exception):  # noqa: N818
    """The client closed the connection, so there is nobody to respond to."""


class Api:
    """The application: routes, bodies, errors.

    Args:
        app: BentoML's application; it handles `BENTOML_PATHS`.
        started: returns this process's worker, which exists before the first request.
        openapi: returns BentoML's own OpenAPI document.
    """

    def __init__(
        self, app: App, started: Callable[[], Worker], openapi: Callable[[], dict[str, Any]]
    ) -> None:
        self._app = app
        self._worker = started
        self._openapi = openapi
        self._held = 0
        self._page = (HERE / "demo.html").read_bytes()
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
        if scope["type"] != "http" or (
            _is_bentomls(scope["path"]) and scope["method"] in ("GET", "HEAD")
        ):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        valid = REQUEST_ID.fullmatch(given)
        request_id = given.decode() if valid else f"{random.getrandbits(64):016x}"
        request = Request(request_id, scope["method"], scope["path"], headers, receive)
        try:
            reply = await self._reply(request)
        except Gone:
            return
        finally:
            self._held -= request.held
        reply_headers = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            *reply.headers,
        ]
        start = {"type": "http.response.start", "status": reply.status, "headers": reply_headers}
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})
        # Only paths that exist: each one is a time series of its own in Prometheus.
        exists = request.path in self._routes or request.path in BENTOML_PATHS
        path = request.path if exists else "other"
        seconds = time.perf_counter() - started
        self._worker().monitoring.request(
            request_id, request.method, path, reply.status, seconds, **request.details
        )

    async def _reply(self, request: Request) -> Reply:
        """The response of the path's handler, or the error that it raised as a response."""
        try:
            return await self._handler(request)(request)
        except Gone:
            raise
        except Refused as error:
            refused = error
        except OverloadError as error:
            refused = Refused(503, str(error), RETRY_AFTER)
        except Exception:
            _log.exception("Request %s failed", request.id)
            refused = Refused(500, f"internal error, request {request.id}")
        request.details["error"] = str(refused)
        return Reply(to_json({"error": str(refused)}), refused.status, headers=refused.headers)

    def _handler(self, request: Request) -> Callable[[Request], Awaitable[Reply]]:
        allowed, handler = self._routes.get(request.path, ("GET", None))
        if handler is None and not _is_bentomls(request.path):
            raise Refused(404, "there is nothing at this path; /docs.json lists all paths")
        accepted = request.method == allowed or (request.method, allowed) == ("HEAD", "GET")
        if handler is None or not accepted:
            raise Refused(405, f"use {allowed} here", (b"allow", allowed.encode()))
        return handler

    async def _predict(self, request: Request) -> Reply:
        photo = await self._photo(request)
        prediction = (await self._worker().predict(request.id, [photo]))[0]
        if "error" in prediction:
            raise _unusable(prediction["error"])
        for key in ("prediction", "confidence", "known"):
            request.details[key] = prediction[key]
        return Reply(to_json(prediction))

    async def _predict_batch(self, request: Request) -> Reply:
        worker = self._worker()
        worker.refuse_overload()
        body = await self._body(request, MAX_BODY)
        kind = request.headers.get(b"content-type", b"").decode("latin-1")
        if not kind.lower().startswith("multipart/form-data"):
            raise Refused(415, f"send a multipart form with 1 to {MAX_BATCH} files named 'images'")
        photos = _files(body, kind, "images", MAX_BATCH)
        if max(map(len, photos)) > images.MAX_BYTES:
            raise _too_large(images.MAX_BYTES)
        request.details["photos"] = len(photos)
        return Reply(to_json(await worker.predict(request.id, photos)))

    async def _explain(self, request: Request) -> Reply:
        photo = await self._photo(request)
        try:
            picture = await self._worker().explain(photo)
        except images.ImageError as error:
            raise _unusable(str(error)) from error
        return Reply(picture, content_type=b"image/png")

    async def _model(self, _: Request) -> Reply:
        return Reply(self._worker().description)

    async def _demo(self, _: Request) -> Reply:
        return Reply(self._page, content_type=b"text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def _docs(self, _: Request) -> Reply:
        ours = yaml.safe_load((HERE / "openapi.yaml").read_text(encoding="utf-8"))
        document = self._openapi()
        document["info"] = ours["info"]
        document["paths"] = ours["paths"] | document["paths"]
        document["components"] = ours["components"]
        return Reply(to_json(document))

    async def _photo(self, request: Request) -> bytes:
        """The one photo of a request: a file in a form, or the whole body."""
        self._worker().refuse_overload()
        body = await self._body(request, images.MAX_BYTES)
        kind = request.headers.get(b"content-type", b"").decode("latin-1")
        lower = kind.lower()
        if lower.startswith(("image/", "application/octet-stream")):
            return body
        if lower.startswith("multipart/form-data"):
            return _files(body, kind, "image", 1)[0]
        raise Refused(
            415, "send the photo as a file in form field 'image', or as the body with type image/*"
        )

    async def _body(self, request: Request, limit: int) -> bytes:
        declared = request.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
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
                    self._held += len(chunk)
                    if request.held > limit:
                        raise _too_large(limit)
                    if self._held > MAX_HELD:
                        raise OverloadError
                    chunks.append(chunk)
        except TimeoutError as error:
            why = f"the body did not arrive within {BODY_TIMEOUT:.0f} s"
            raise Refused(408, why, (b"connection", b"close")) from error
        return b"".join(chunks)


def _is_bentomls(path: str) -> bool:
    return path in BENTOML_PATHS or path.startswith(BENTOML_FILES)


def _files(body: bytes, content_type: str, name: str, most: int) -> list[bytes]:
    """The files in the form's fields of this name; a form with any other field is refused."""
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
            raise Refused(422, f"the form has a field {part.name[:40]!r}; only '{name}' is allowed")
        if not part.is_file:
            raise Refused(422, f"'{name}' must be a file, not text; addresses are not fetched")
    return [part.content for part in parts]


def _unusable(why: str) -> Refused:
    return Refused(413 if why == images.TOO_MANY else 400, why)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"more than {limit // 2**20} MB")
