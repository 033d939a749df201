"""What happens around each request: its id, its line in the log, and API keys."""

import hmac
import random
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from signs.errors import UserError
from signs.serving.app import HEALTH, error_response
from signs.serving.monitoring import Monitoring
from signs.serving.refused import Refused

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
SHORTEST_KEY = 16  # characters
# BentoML refuses it too, but with a traceback in the log each time, and not as our errors are.
PICKLE = b"application/vnd.bentoml+pickle"
NO_SNIFFING = (b"x-content-type-options", b"nosniff")
QUIET = {*HEALTH, "/metrics"}  # machines ask for these all the time: neither counted nor logged
# What may be open to those who have no key, by its name in SIGNS_OPEN. The page is of no use
# without a key, but asks for one.
OPEN = {"health": HEALTH, "metrics": ("/metrics",), "page": ("/", "/demo", "/page.css", "/page.js")}


class Requests:
    """Gives each request an id, and counts and logs it when it has ended.

    A path may begin with `prefix`, for proxies that keep theirs. `monitoring` returns this
    process's; `paths` are those that it names.
    """

    def __init__(
        self,
        app: ASGIApp,
        monitoring: Callable[[], Monitoring],
        paths: Collection[str],
        prefix: str = "",
    ) -> None:
        self._app = app
        self._monitoring = monitoring
        self._paths = set(paths)
        self._prefix = f"/{prefix}" if (prefix := prefix.strip("/")) else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3.0."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        if self._prefix and scope["path"].startswith(self._prefix + "/"):
            scope["path"] = scope["path"].removeprefix(self._prefix)
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        is_id = REQUEST_ID.fullmatch(given)
        request_id = given.decode() if is_id else f"{random.getrandbits(64):016x}"
        scope["signs.id"], scope["signs.details"] = request_id, {}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = ((b"x-request-id", request_id.encode()), NO_SNIFFING)
                message["headers"] = [*message["headers"], *added]
            await send(message)

        app = self._app
        if headers.get(b"content-type", b"").startswith(PICKLE):
            app = error_response(Request(scope), Refused(415, "pickle is not accepted"))
        await app(scope, receive, send_with_id)
        if scope["path"] in QUIET:
            return
        # Only paths that exist: each one is a time series of its own in Prometheus.
        path = scope["path"] if scope["path"] in self._paths else "other"
        seconds = time.perf_counter() - started
        self._monitoring().request(
            request_id, scope["method"], path, status, seconds, **scope["signs.details"]
        )


class ApiKeys:
    """Lets only those requests through that bring one of `keys`, or ask for an open path.

    A key stands in the header `Authorization: Bearer KEY`, as BentoML's client sends it
    (`token=KEY`), or in `X-API-Key: KEY`.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._open = set(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3.0."""
        if scope["type"] == "lifespan" or scope["path"] in self._open or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            why = "send an API key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            refused = Refused(401, why, {"www-authenticate": "Bearer"})
            await error_response(Request(scope), refused)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_allowed(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        # A browser's question whether it may send the header with the key.
        if scope.get("method") == "OPTIONS" and b"access-control-request-method" in headers:
            return True
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        # All of them, and in constant time: how long it takes must not tell how much is right.
        return sum([hmac.compare_digest(given, key) for key in self._keys]) > 0


def api_keys(environment: Mapping[str, str]) -> dict[str, Collection[str]] | None:
    """The settings of `ApiKeys` in environment variables; None: nobody needs a key.

    `SIGNS_API_KEYS` has keys between commas, the file `SIGNS_API_KEYS_FILE` one a line.
    `SIGNS_OPEN` names what needs none (`OPEN`), between commas; default: health, page.

    Raises:
        UserError: a key is too short, a file is missing, or a name unknown.
    """
    text, file = environment.get("SIGNS_API_KEYS"), environment.get("SIGNS_API_KEYS_FILE")
    if text is None and file is None:
        return None
    keys = (text or "").split(",")
    if file is not None:
        try:
            keys += Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"SIGNS_API_KEYS_FILE: {error}") from error
    keys = [key.strip() for key in keys if key.strip()]
    if not keys:
        raise UserError("SIGNS_API_KEYS or its file is set, but holds no key. Unset it or add one.")
    if any(len(key) < SHORTEST_KEY or not key.isascii() or " " in key for key in keys):
        raise UserError(
            f"An API key must have at least {SHORTEST_KEY} characters, all of them ASCII and none "
            "a blank. `openssl rand -hex 16` makes one."
        )
    names = {name.strip() for name in environment.get("SIGNS_OPEN", "health,page").split(",")}
    if unknown := names - {*OPEN, ""}:
        allowed = ", ".join(OPEN)
        raise UserError(f"SIGNS_OPEN: {min(unknown)!r} is unknown. Allowed: {allowed}.")
    return {"keys": keys, "open_paths": {path for name in names for path in OPEN.get(name, ())}}
