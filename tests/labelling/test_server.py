"""The page's server: moves the photos that it is told to, for its own page alone."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from signs.errors import UserError
from signs.labelling import tray
from signs.labelling.class_folders import ClassFolders
from signs.labelling.server import Server
from tests.inference.small import CLASS_IDS, NAMES, load, plain, png

RED, GREEN = (png(plain(color, size=30)[0]) for color in ((255, 0, 0), (0, 255, 0)))
GREY = png(plain((90, 90, 90), size=30)[0])


def open_tray(tmp_path: Path) -> tray.Tray:
    """A tray of all photos in tmp_path/kept, labelled into tmp_path/mine."""
    classes = ClassFolders(tmp_path / "mine", dict(zip(NAMES, CLASS_IDS, strict=True)))
    folder = tmp_path / "kept"
    photos = tray.by_doubt(tray.find(folder), load(tmp_path / "classifier"))
    return tray.Tray(folder, photos, classes)


class Client:
    """The page, or somebody who pretends to be it."""

    def __init__(self, server: Server) -> None:
        self.port = server.server_port
        self.origin = f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        self.headers, content = reply.headers, reply.read()
        connection.close()
        is_json = reply.headers["Content-Type"] == "application/json"
        return reply.status, json.loads(content) if is_json else content

    def post(self, path: str, **asked: object) -> Any:
        status, content = self.ask("POST", path, json.dumps(asked).encode(), Origin=self.origin)
        return content if status == 200 else (status, content["error"])

    def state(self) -> Any:
        return self.ask("GET", "/state")[1]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Photos as the service keeps them, without a suffix, and some that people put there."""
    folder = tmp_path / "kept"
    (folder / "deeper").mkdir(parents=True)
    names = {"abc-1": RED, "abc-2": GREY, "deeper/x.png": GREEN, "-v.jpg": b"no photo"}
    for name, content in (names | {"notes.txt": b"text", ".hidden.png": RED}).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def client(kept: Path, tmp_path: Path) -> Iterator[Client]:
    with Server(open_tray(tmp_path), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_what_the_classifier_doubts_comes_first(client: Client) -> None:
    seen = []
    while photo := client.state()["photo"]:
        seen.append(photo["file"])
        client.post("/skip", number=photo["number"])
    assert seen[0] == "abc-2"
    assert seen[-1] == "-v.jpg"
    assert set(seen) == {"abc-1", "abc-2", "deeper/x.png", "-v.jpg"}
    state = client.state()
    assert (state["skipped"], state["labelled"], state["total"]) == (4, 0, 4)


def test_labels_move_files_and_undo_moves_them_back(
    client: Client, kept: Path, tmp_path: Path
) -> None:
    before = files(kept)
    state = client.state()
    assert [len(state["photo"]["top"]), state["classes"]] == [4, sorted(NAMES)]
    state = client.post("/no-sign", number=state["photo"]["number"])
    assert (kept / "no sign/abc-2.png").read_bytes() == GREY
    shown = state["photo"]
    content = RED if shown["file"] == "abc-1" else GREEN
    state = client.post("/label", number=shown["number"], name=" Tram ")
    (moved,) = (tmp_path / "mine").glob("*/*.png")
    assert moved.read_bytes() == content
    assert (state["last"], state["labelled"]) == ("Tram", 2)
    assert (tmp_path / "mine/labels.csv").read_text() == "ClassId,Name\n42,Tram\n"
    state = client.post("/undo")
    assert state["photo"] == shown
    assert not moved.parent.exists()
    assert client.post("/undo")["last"] is None
    assert client.post("/undo")["last"] is None  # nothing more to take back
    assert files(kept) == before


def test_the_next_start_goes_on_with_the_rest(client: Client, kept: Path, tmp_path: Path) -> None:
    for path, more in (("/no-sign", {}), ("/label", {"name": "Red"}), ("/skip", {})):
        client.post(path, number=client.state()["photo"]["number"], **more)
    assert {photo.path.name for photo in open_tray(tmp_path).photos} < {"abc-1", "x.png", "-v.jpg"}
    assert len(open_tray(tmp_path).photos) == 2
    assert len(files(kept)) + len(files(tmp_path / "mine")) == 6 + 1  # and labels.csv


def test_no_file_is_overwritten(client: Client, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "mine/14").mkdir(parents=True)
    for name in ("abc-1.png", "abc-2.png", "x.png"):
        (tmp_path / "mine/14" / name).write_bytes(b"another")
    for _ in range(3):
        client.post("/label", number=client.state()["photo"]["number"], name="Green")
    (kept / "abc-1").write_bytes(GREY)
    assert len(files(tmp_path / "mine/14")) == 6
    for _ in range(3):
        client.post("/undo")
    assert {"abc-1", "abc-2", "abc-1-2"} <= set(files(kept))
    assert files(tmp_path / "mine/14") == ["abc-1.png", "abc-2.png", "x.png"]


def test_photos_are_shown_as_png_and_unreadable_ones_are_said(client: Client, kept: Path) -> None:
    shown = client.state()["photo"]["number"]
    status, content = client.ask("GET", f"/photo/{shown}")
    assert (status, client.headers["Content-Type"]) == (200, "image/png")
    assert (cv2.imdecode(np.frombuffer(content, np.uint8), 1) == 90).all()
    for _ in range(3):
        number = client.post("/skip", number=client.state()["photo"]["number"])["photo"]["number"]
    assert "not an image of a known format" in client.state()["photo"]["error"]
    assert client.ask("GET", f"/photo/{number}")[0] == 404
    assert client.ask("GET", "/photo/99")[0] == 404
    assert client.ask("GET", "/photo/../../etc/passwd")[0] == 404


def test_a_large_photo_is_shown_smaller(kept: Path, tmp_path: Path) -> None:
    (kept / "abc-2").write_bytes(png(np.zeros((100, 4000, 3), np.uint8)))
    with Server(open_tray(tmp_path), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        numbers = range(len(server.tray.photos))
        (number,) = (n for n in numbers if server.tray.photos[n].path.name == "abc-2")
        content = Client(server).ask("GET", f"/photo/{number}")[1]
        server.shutdown()
        thread.join()
    assert cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape == (40, 1600, 3)


def test_only_its_own_page_may_read_or_change(client: Client, kept: Path) -> None:
    before = files(kept)
    body = json.dumps({"number": client.state()["photo"]["number"]}).encode()
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{client.port}"):
        assert client.ask("POST", "/no-sign", body, Origin=origin)[0] == 403
    assert client.ask("POST", "/no-sign", body)[0] == 403
    for path in ("/", "/state", "/photo/0"):
        assert client.ask("GET", path, Host=f"evil.example:{client.port}")[0] == 403
        assert client.ask("GET", path, Host=f"localhost:{client.port}")[0] == 200
        policy = client.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
    assert files(kept) == before


def test_bad_requests_change_nothing(client: Client, kept: Path) -> None:
    before, number = files(kept), client.state()["photo"]["number"]
    assert client.post("/label", number=number + 1, name="Red")[0] == 409
    assert client.post("/label", number=number, name="")[0] == 422
    assert client.post("/label", number=number)[0] == 400
    assert client.post("/other", number=number)[0] == 400
    for body in (b"", b"{", b"[]", b"\xff"):
        assert client.ask("POST", "/label", body, Origin=client.origin)[0] == 400
    assert client.ask("POST", "/label", b" " * 20_000, Origin=client.origin)[0] == 413
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
        raw.sendall(b"POST /label HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 413 " in raw.recv(100)
    assert files(kept) == before


def test_a_photo_that_is_gone_is_said_and_can_be_skipped(client: Client, kept: Path) -> None:
    shown = client.state()["photo"]
    (kept / shown["file"]).unlink()
    status, why = client.post("/label", number=shown["number"], name="Red")
    assert (status, "No such file" in why) == (500, True)
    assert client.post("/skip", number=shown["number"])["photo"] != shown


def test_a_folder_without_photos_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        tray.find(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(UserError, match="holds no photos that wait for a label"):
        tray.find(tmp_path)
