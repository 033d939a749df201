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
from urllib.parse import parse_qsl

import yaml
from pydantic_core import to_json

from signs.data import images
from signs.serving import forms
from signs.serving.refused import Header, Refused, overloaded
from signs.serving.worker import MAX_BATCH, Worker

MAX_BODY = 64 * 2**20
MAX_JSON = images.MAX_BYTES * 4 // 3 + 1024  # base64 takes four bytes for three
MAX_HELD = 4 * MAX_BODY  # bytes of bodies that one worker holds at a time
BODY_TIMEOUT = 10.0  # seconds that a body may take to arrive

BENTOML_PATHS = {"/livez", "/healthz", "/readyz", "/metrics", "/schema.json"}
PHOTO_TYPES = ("image/", "application/octet-stream")
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

_log = logging.getLogger("bentoml.signs")


@dataclass(slots=True)
class Request:
    """What the handlers need of a request."""

    id: str  # the client's X-Request-ID, or a random one
    method: str
    path: str  # without the query
    query: bytes
    headers: dict[bytes, bytes]  # by lower-case name
    receive: Receive  # gives the next ASGI message
    held: int = 0  # bytes of the body that were read
    details: dict[str, Any] = field(default_factory=dict)  # further fields of its line in the log


@dataclass(slots=True)
class Reply:
    """A response: body, status, content type, and headers beside those that all responses have."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: list[Header] = field(default_factory=list)


class Gone(Exception):  # noqa: N818
    """The client closed the connection, so there is nobody to respond to."""


class Api:
    """The application: routes, bodies, errors. BentoML's `app` handles `BENTOML_PATHS`.

    `started` returns this process's worker, which exists before the first request; `openapi`
    returns BentoML's own OpenAPI document.
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
            "/": ("GET", self._demo),
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
        given = REQUEST_ID.fullmatch(headers.get(b"x-request-id", b""))
        request_id = given[0].decode() if given else f"{random.getrandbits(64):016x}"
        request = Request(
            request_id, scope["method"], scope["path"], scope["query_string"], headers, receive
        )
        try:
            reply = await self._reply(request)
        except Gone:
            return
        finally:
            self._held -= request.held
        sent = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
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
        except images.ImageError as error:
            refused = Refused(413 if str(error) == images.TOO_MANY else 400, str(error))
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
        photo, box = await self._photo(request)
        prediction = (await self._worker().predict(request.id, [photo], box))[0]
        if "error" in prediction:
            raise images.ImageError(prediction["error"])
        for key in ("prediction", "confidence", "known"):
            request.details[key] = prediction[key]
        return Reply(to_json(prediction))

    async def _predict_batch(self, request: Request) -> Reply:
        self._worker().refuse_overload()
        body, kind = await self._body(request, MAX_BODY), _content_type(request)
        if not kind.lower().startswith("multipart/form-data"):
            why = f"send a multipart form with 1 to {MAX_BATCH} files named 'images'"
            raise Refused(415, why)
        photos = forms.read(body, kind, "images", MAX_BATCH).files
        if max(map(len, photos)) > images.MAX_BYTES:
            raise _too_large(images.MAX_BYTES)
        request.details["photos"] = len(photos)
        return Reply(to_json(await self._worker().predict(request.id, photos)))

    async def _explain(self, request: Request) -> Reply:
        photo, box = await self._photo(request)
        return Reply(await self._worker().explain(photo, box), content_type=b"image/png")

    async def _model(self, _: Request) -> Reply:
        return Reply(self._worker().description)

    async def _demo(self, _: Request) -> Reply:
        return Reply(self._page, content_type=b"text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def _docs(self, _: Request) -> Reply:
        ours = yaml.safe_load((HERE / "openapi.yaml").read_text(encoding="utf-8"))
        document = self._openapi()
        paths = ours["paths"] | document["paths"]
        return Reply(to_json(document | ours | {"paths": paths}))

    async def _photo(self, request: Request) -> tuple[bytes, images.Box | None]:
        """The photo of a request, whatever way it is sent, and the box of its sign, if given."""
        self._worker().refuse_overload()
        kind = _content_type(request)
        in_json = kind.lower().startswith("application/json")
        body = await self._body(request, MAX_JSON if in_json else images.MAX_BYTES)
        photo, box = body, _query(request).get("box", "")
        if kind.lower().startswith("multipart/form-data"):
            form = forms.read(body, kind, "image", 1, ["box"])
            photo, box = form.files[0], form.texts.get("box", box)
        elif in_json:
            photo, given = forms.photo_in_json(body)
            box = given or box
        elif not (kind.lower().startswith(PHOTO_TYPES) or images.FIRST_BYTES.match(body)):
            raise Refused(
                415,
                "send the photo as the body, as a file in form field 'image', or as JSON: "
                '{"image": "<base64>"}',
            )
        return photo, images.box_of(box) if box else None

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
                        raise overloaded()
                    chunks.append(chunk)
        except TimeoutError as error:
            why = f"the body did not arrive within {BODY_TIMEOUT:.0f} s"
            raise Refused(408, why, (b"connection", b"close")) from error
        return b"".join(chunks)


def _content_type(request: Request) -> str:
    return request.headers.get(b"content-type", b"").decode("latin-1")


def _query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.query.decode("latin-1")))


def _is_bentomls(path: str) -> bool:
    return path in BENTOML_PATHS or path.startswith("/static_content/")


def _too_large(limit: int) -> Refused:
    return Refused(413, f"more than {limit // 2**20} MB")
