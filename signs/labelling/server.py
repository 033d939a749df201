"""The HTTP server of the page: for this machine's own browser, and for nobody else."""

import contextlib
import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2

from signs.data import images
from signs.errors import UserError
from signs.labelling.tray import StaleError, Tray

HOST = "127.0.0.1"
LARGEST_SHOWN = 1600  # pixels a side
LARGEST_BODY = 10_000  # bytes
PAGE = Path(__file__).with_name("page.html")
# The page loads nothing from other hosts, sends nothing to them, and is in no other page's frame.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Shows a tray; a port of 0 takes a free one."""

    daemon_threads = True

    def __init__(self, tray: Tray, port: int) -> None:
        super().__init__((HOST, port), Handler)
        self.tray, self.lock = tray, threading.Lock()
        self.origins = {f"http://{name}:{self.server_port}" for name in (HOST, "localhost")}

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        tray = self.tray
        shown = None
        if tray.waiting:
            photo = tray.photos[tray.waiting[0]]
            name = photo.path.relative_to(tray.folder).as_posix()
            shown = {"number": tray.waiting[0], "file": name} | photo.prediction
        return {
            "photo": shown,
            "labelled": tray.count(skipped=False),
            "skipped": tray.count(skipped=True),
            "total": len(tray.photos),
            "classes": tray.classes.names,
            "folder": str(tray.folder),
            "to": str(tray.classes.folder),
            "last": tray.steps[-1].said if tray.steps else None,
        }


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """The page, its state, and photos by their number."""
        photo = re.fullmatch(r"/photo/(\d{1,9})", self.path)
        if f"http://{self.headers['Host']}" not in self.server.origins:
            # Another site's name may lead to this address (DNS rebinding).
            self._refuse(HTTPStatus.FORBIDDEN, "Open the page as the command has printed it.")
        elif self.path == "/":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", PAGE.read_bytes())
        elif self.path == "/state":
            with self.server.lock:
                self._reply(self.server.state())
        elif photo and int(photo[1]) < len(self.server.tray.photos):
            self._photo(self.server.tray.photos[int(photo[1])].path)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing at this path.")

    def do_POST(self) -> None:
        """One step: JSON with `number` and, for a label, `name`; responds with the new state."""
        length = self.headers["Content-Length"] or ""
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too long.")
            return
        body = self.rfile.read(int(length))
        # A page of another site may send requests here, but not with this origin.
        if self.headers["Origin"] not in self.server.origins:
            self._refuse(HTTPStatus.FORBIDDEN, "Only the page of this server may do that.")
            return
        try:
            with self.server.lock:
                self._step(json.loads(body))
                self._reply(self.server.state())
        except StaleError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except UserError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except OSError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"The photo cannot be moved: {error}.")
        except (ValueError, KeyError, TypeError):
            self._refuse(HTTPStatus.BAD_REQUEST, "The request cannot be read.")

    def log_message(self, *_: object) -> None:
        """Print nothing: the page says what it does."""

    def _step(self, asked: dict[str, Any]) -> None:
        tray = self.server.tray
        if self.path == "/label":
            tray.label(asked["number"], str(asked["name"]).strip())
        elif self.path == "/no-sign":
            tray.no_sign(asked["number"])
        elif self.path == "/skip":
            tray.skip(asked["number"])
        elif self.path == "/undo":
            tray.undo()
        else:
            raise ValueError(self.path)

    def _photo(self, path: Path) -> None:
        """The photo as PNG: browsers do not show all formats, and so it is nothing but pixels."""
        try:
            image = images.decode(path.read_bytes())
        except (images.ImageError, OSError) as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
            return
        shrink = LARGEST_SHOWN / max(image.shape)
        if shrink < 1:
            image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        self._send(HTTPStatus.OK, "image/png", content)

    def _reply(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._reply({"error": why}, status)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the browser has gone
            self.wfile.write(content)
