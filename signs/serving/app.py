"""The HTTP interface of the service: endpoints, and the Starlette application that BentoML mounts.

They read a body as it arrives. BentoML's own typed parameters take longer than the network does,
download the addresses that they find in a file field, and decode any file they get
(docs/speed.md compares the two).
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from signs.data import images
from signs.serving import forms
from signs.serving.monitoring import metrics
from signs.serving.refused import Refused, overloaded
from signs.serving.worker import MAX_BATCH, Worker

MAX_BODY = 64 * 2**20
MAX_JSON = images.MAX_BYTES * 4 // 3 + 1024  # base64 takes four bytes for three
MAX_HELD = 2 * MAX_BODY  # bytes of bodies that one worker holds at a time; it copies two at most
BODY_TIMEOUT = 10.0  # seconds that a body may take to arrive
CLOSED = 499  # for the log: the client closed the connection, so there is nobody to respond to

PHOTO_TYPES = ("image/", "application/octet-stream")
HERE = Path(__file__).parent
# The page loads nothing from other hosts and sends nothing to them.
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
PAGE_HEADERS = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}

HEALTH = ("/livez", "/healthz", "/readyz")
# BentoML responds to these, if the method is right.
BENTOML_PATHS = dict.fromkeys((*HEALTH, "/schema.json"), "GET") | dict.fromkeys(
    ("/api/predict", "/api/predict_batch", "/api/explain"), "POST"
)

_log = logging.getLogger("bentoml.signs")


Handler = Callable[["Endpoints", Request], Awaitable[Response]]


def _responds(method: str) -> Callable[[Handler], Handler]:
    """A decorator for handlers of requests with this method: their errors become responses."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def respond(self: "Endpoints", request: Request) -> Response:
            try:
                if request.method != method and (request.method, method) != ("HEAD", "GET"):
                    raise _wrong_method(method)
                return await handler(self, request)
            except ClientDisconnect:
                return Response(status_code=CLOSED)
            # No error outlives its block: its traceback holds the body.
            except Refused as error:
                return error_response(request, error)
            except images.ImageError as error:
                status = 413 if str(error) == images.TOO_MANY else 400
                return error_response(request, Refused(status, str(error)))
            except Exception:
                _log.exception("Request %s failed", request.scope["signs.id"])
                why = f"internal error, request {request.scope['signs.id']}"
                return error_response(request, Refused(500, why))
            finally:
                self._held -= request.scope.pop("signs.held", 0)

        return respond

    return decorate


class Endpoints:
    """What each path of the service responds to a request; one object for each process.

    `worker` returns this process's worker, which exists before the first request; `openapi`
    returns BentoML's own OpenAPI document.
    """

    def __init__(self, worker: Callable[[], Worker], openapi: Callable[[], dict[str, Any]]) -> None:
        self._worker = worker
        self._openapi = openapi
        self._held = 0
        self._document = b""
        self._page = {name: (HERE / "page" / name).read_bytes() for name in PAGE_TYPES}
        self.paths = {
            "/predict": self.predict,
            "/predict_batch": self.predict_batch,
            "/explain": self.explain,
            "/": self.page,
            "/demo": self.page,
            "/page.css": self.page,
            "/page.js": self.page,
            "/model": self.model,
            "/docs.json": self.docs,
            "/metrics": self.metrics,
        }

    @_responds("POST")
    async def predict(self, request: Request) -> Response:
        """The prediction for one photo."""
        photo, box = await self._photo(request)
        prediction = (await self._worker().predict(request.scope["signs.id"], [photo], box))[0]
        if "error" in prediction:
            raise images.ImageError(prediction["error"])
        for key in ("prediction", "confidence", "known"):
            request.scope["signs.details"][key] = prediction[key]
        return _json(prediction)

    @_responds("POST")
    async def predict_batch(self, request: Request) -> Response:
        """A prediction or an error for each photo of a form."""
        self._worker().refuse_overload()
        body = await self._body(request, MAX_BODY)
        if not _content_type(request).startswith("multipart/form-data"):
            why = f"send a multipart form with 1 to {MAX_BATCH} files named 'images'"
            raise Refused(415, why)
        photos = forms.read(body, request.headers["content-type"], "images", MAX_BATCH).files
        del body  # the photos are copies
        if max(map(len, photos)) > images.MAX_BYTES:
            raise _too_large(images.MAX_BYTES)
        request.scope["signs.details"]["photos"] = len(photos)
        return _json(await self._worker().predict(request.scope["signs.id"], photos))

    @_responds("POST")
    async def explain(self, request: Request) -> Response:
        """An occlusion map of one photo, as a PNG file."""
        photo, box = await self._photo(request)
        return Response(await self._worker().explain(photo, box), media_type="image/png")

    @_responds("GET")
    async def model(self, _: Request) -> Response:
        """The description of the classifier."""
        return Response(self._worker().description, media_type="application/json")

    @_responds("GET")
    async def page(self, request: Request) -> Response:
        """The page to try photos, or its style or script."""
        name = request.scope["path"].rpartition("/")[2]
        name = name if name in PAGE_TYPES else "index.html"
        return Response(self._page[name], headers=PAGE_HEADERS, media_type=PAGE_TYPES[name])

    @_responds("GET")
    async def docs(self, _: Request) -> Response:
        """The OpenAPI document: BentoML's, with ours for the paths here."""
        if not self._document:  # it takes a tenth of a second
            self._document = to_json(self._describe())
        return Response(self._document, media_type="application/json")

    def _describe(self) -> Any:
        ours = yaml.safe_load((HERE / "openapi.yaml").read_text(encoding="utf-8"))
        document = self._openapi()
        paths = document["paths"] | ours["paths"]
        for path, entry in ours["paths"].items():
            if f"/api{path}" in paths:  # the same endpoint
                paths[f"/api{path}"]["post"]["responses"] = entry["post"]["responses"]
        schemas = document["components"]["schemas"] | ours["components"]["schemas"]
        return document | ours | {"paths": paths, "components": {"schemas": schemas}}

    @_responds("GET")
    async def metrics(self, _: Request) -> Response:
        """The metrics of all worker processes, for Prometheus."""
        content, kind = await asyncio.to_thread(metrics)
        return Response(content, headers={"content-type": kind})

    async def _photo(self, request: Request) -> tuple[bytes, images.Box | None]:
        """The photo of a request, whatever way it is sent, and the box of its sign, if given."""
        self._worker().refuse_overload()
        kind = _content_type(request)
        in_json = kind.startswith("application/json")
        body = await self._body(request, MAX_JSON if in_json else images.MAX_BYTES)
        photo = body
        box = request.query_params.get("box", "") if request.scope["query_string"] else ""
        if kind.startswith("multipart/form-data"):
            form = forms.read(body, request.headers["content-type"], "image", 1, ["box"])
            photo, box = form.files[0], form.texts.get("box", box)
        elif in_json:
            photo, given = forms.photo_in_json(body)
            box = given or box
        elif not (kind.startswith(PHOTO_TYPES) or images.FIRST_BYTES.match(body)):
            raise Refused(
                415,
                "send the photo as the body, as a file in form field 'image', or as JSON: "
                '{"image": "<base64>"}',
            )
        return photo, images.box_of(box) if box else None

    async def _body(self, request: Request, limit: int) -> bytes:
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        body = bytearray()  # and no list of chunks, whose memory comes back in pieces
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    request.scope["signs.held"] = len(body)
                    if len(body) > limit:
                        raise _too_large(limit)
                    if self._held > MAX_HELD:
                        raise overloaded()
        except TimeoutError as error:
            why = f"the body did not arrive within {BODY_TIMEOUT:.0f} s"
            raise Refused(408, why, {"connection": "close"}) from error
        return bytes(body)


def application(endpoints: Endpoints) -> Router:
    """All paths but those of BentoML's APIs and health checks."""
    # Without this list, Starlette itself would refuse other methods, and not as JSON.
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    routes = [Route(path, handler, methods=methods) for path, handler in endpoints.paths.items()]
    return Router(routes, redirect_slashes=False, default=_nothing)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """What all other paths respond."""
    if scope["type"] != "http":
        await WebSocketClose()(scope, receive, send)
        return
    refused = Refused(404, "there is nothing at this path; /docs.json lists all paths")
    if method := BENTOML_PATHS.get(scope["path"]):
        refused = _wrong_method(method)
    await error_response(Request(scope), refused)(scope, receive, send)


def error_response(request: Request, error: Refused) -> Response:
    """The response of a refused request."""
    request.scope["signs.details"]["error"] = str(error)
    return _json({"error": str(error)}, error.status, error.headers)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").lower()


def _wrong_method(right: str) -> Refused:
    return Refused(405, f"use {right} here", {"allow": "GET, HEAD" if right == "GET" else right})


def _too_large(limit: int) -> Refused:
    return Refused(413, f"more than {limit // 2**20} MB")
