"""The HTTP contract: answers, documents, and an error that helps for whatever is wrong."""

import contextlib
import http.client
import io
import json
import socket
import struct
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

Photo = Callable[..., bytes]
Reply = tuple[int, Any, dict[str, str]]


def ask(address: str, body: bytes | None = None, method: str = "", **headers: str) -> Reply:
    """Status, decoded body and headers (lower case) of one request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, body, named, method=method or None)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, content, got = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        status, content, got = error.code, error.read(), error.headers
    kind = got.get("content-type", "")
    return (
        status,
        json.loads(content) if content and kind == "application/json" else content,
        {name.lower(): value for name, value in got.items()},
    )


def send(server: str, body: bytes, kind: str = "image/png", path: str = "/predict") -> Reply:
    return ask(server + path, body, Content_Type=kind)


def form(*parts: tuple[str, bytes | str, str | None], boundary: str = "frontier") -> bytes:
    """Fields of (name, content, file name or None for a text field)."""
    lines = []
    for name, content, file in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
        data = content if isinstance(content, bytes) else content.encode()
        lines += [
            f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
        ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


def head(body: bytes) -> bytes:
    """What goes before a raw body."""
    return (
        "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()


FORM = "multipart/form-data; boundary=frontier"


@pytest.fixture(autouse=True)
def still_answers(server: str, make_photo: Photo) -> Iterator[None]:
    """Whatever a test sends, the next good request is answered."""
    yield
    status, answer, _ = send(server, make_photo("Red"))
    assert (status, answer["name"]) == (200, "Red")


def error(reply: Reply, status: int, *words: str) -> None:
    assert reply[0] == status, reply
    assert list(reply[1]) == ["error"]
    for word in words:
        assert word in reply[1]["error"]


def test_answers_that_are_worked_out_together_go_to_whom_they_belong(
    server: str, make_photo: Photo
) -> None:
    bodies = {color: make_photo(color) for color in ("Red", "Green")} | {"damaged": b"\x89PNG"}
    alone = {name: send(server, body)[:2] for name, body in bodies.items()}
    names = list(bodies) * 40
    with ThreadPoolExecutor(24) as clients:
        replies = list(clients.map(lambda name: send(server, bodies[name])[:2], names))
    assert replies == [alone[name] for name in names]
    assert [alone[name][0] for name in bodies] == [200, 200, 400]


def test_answers_a_form_and_a_raw_body_alike(server: str, make_photo: Photo) -> None:
    status, answer, headers = send(server, make_photo("Green"))
    assert status == 200
    assert {key: answer[key] for key in ("prediction", "name", "known")} == {
        "prediction": 14,
        "name": "Green",
        "known": True,
    }
    assert answer["confidence"] > 0.99
    assert answer["top"][0]["prediction"] == 14
    assert len(answer["top"]) == 3
    assert sum(guess["confidence"] for guess in answer["top"]) == pytest.approx(1, abs=1e-5)
    assert len(answer["model"]) == 12
    assert headers["content-type"] == "application/json"
    body = form(("image", make_photo("Green"), "a.png"))
    assert send(server, body, FORM)[:2] == (200, answer)


def test_says_unknown(server: str) -> None:
    grey = cv2.imencode(".png", np.full((30, 30, 3), 90, np.uint8))[1].tobytes()
    status, answer, _ = send(server, grey)
    assert (status, answer["known"]) == (200, False)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".ppm"])
def test_reads_these_formats_whatever_they_are_called(
    server: str, make_photo: Photo, suffix: str
) -> None:
    for kind in ("image/png", "image/x-anything", "application/octet-stream"):
        status, answer, _ = send(server, make_photo("Blue", suffix), kind)
        assert (status, answer["name"]) == (200, "Blue")


def test_reads_grey_and_16_bit(server: str) -> None:
    for image in (np.full((20, 20), 100, np.uint8), np.full((20, 20, 3), 30_000, np.uint16)):
        status, answer, _ = send(server, cv2.imencode(".png", image)[1].tobytes())
        assert (status, answer["known"]) == (200, False)


def test_reads_cmyk(server: str) -> None:
    file = io.BytesIO()
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(file, "JPEG")
    status, answer, _ = send(server, file.getvalue(), "image/jpeg")
    assert (status, answer["name"]) == (200, "Red")


def test_rotates_as_exif_says(server: str, make_photo: Photo) -> None:
    # A red left half and a blue right half; the sum is the same whatever way it is turned, so
    # what tells is that the picture of /explain comes out turned.
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, :20], halves[:, 20:] = (0, 0, 255), (255, 255, 255)
    plain = cv2.imencode(".jpg", halves)[1].tobytes()
    entry = struct.pack("<HHI", 0x0112, 3, 1) + struct.pack("<HH", 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + bytes(4)
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    pictures = []
    for photo in (plain, turned):
        status, picture, headers = send(server, photo, "image/jpeg", "/explain")
        assert (status, headers["content-type"]) == (200, "image/png")
        decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        pictures.append(decoded.astype(float).sum(axis=2))
    across = [np.ptp(picture.mean(axis=0)) for picture in pictures]
    down = [np.ptp(picture.mean(axis=1)) for picture in pictures]
    assert across[0] > down[0]
    assert down[1] > across[1]


def test_batch_keeps_the_order_and_answers_beside_a_bad_one(server: str, make_photo: Photo) -> None:
    colors = ["Red", "Blue", "Green"] * 21
    parts = [("images", make_photo(color), f"{i}.png") for i, color in enumerate(colors)]
    parts.insert(5, ("images", b"no image", "x.txt"))
    status, answers, _ = send(server, form(*parts), FORM, "/predict_batch")
    assert (status, len(answers)) == (200, 64)
    assert list(answers.pop(5)) == ["error"]
    assert [answer["name"] for answer in answers] == colors


def test_explains_with_a_picture(server: str, make_photo: Photo) -> None:
    status, picture, headers = send(server, make_photo(), path="/explain")
    assert (status, headers["content-type"]) == (200, "image/png")
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (16, 16, 3)
    error(send(server, b"no image", path="/explain"), 400, "format")


def test_documents(server: str) -> None:
    status, model, _ = ask(f"{server}/model")
    assert status == 200
    assert model["classes"][1] == {"prediction": 14, "name": "Green"}
    assert (model["commit"], model["dataset"]) == ("c0ffee", "colors")
    assert model["metrics"]["validation"]["accuracy"] == 1.0
    status, page, headers = ask(f"{server}/demo")
    assert status == 200
    assert b"<html" in page
    assert "default-src 'none'" in headers["content-security-policy"]
    status, document, _ = ask(f"{server}/docs.json")
    assert status == 200
    assert {"/predict", "/predict_batch", "/explain", "/model", "/readyz"} <= set(document["paths"])
    for path in ("/livez", "/readyz", "/"):
        assert ask(server + path)[0] == 200


def test_metrics_count_classes_and_unknown(server: str, make_photo: Photo) -> None:
    def counts() -> dict[str, float]:
        lines = ask(f"{server}/metrics")[1].decode().splitlines()
        split = (line.rpartition(" ") for line in lines if line.startswith("signs_"))
        return {name: float(value) for name, _, value in split}

    before = counts()
    send(server, make_photo("Blue"))
    send(server, cv2.imencode(".png", np.full((30, 30, 3), 90, np.uint8))[1].tobytes())
    send(server, b"no image")
    after = counts()
    grown = {name for name in after if after[name] - before.get(name, 0) == 1}
    assert 'signs_predictions_total{prediction="20"}' in grown
    assert 'signs_predictions_total{prediction="unknown"}' in grown
    assert "signs_photos_refused_total" in grown
    assert 'signs_request_duration_seconds_count{path="/predict",status="400"}' in grown


def test_request_id_goes_through_or_is_made(server: str, make_photo: Photo) -> None:
    given = ask(f"{server}/predict", make_photo(), Content_Type="image/png", X_Request_ID="abc-1.2")
    assert given[2]["x-request-id"] == "abc-1.2"
    bad = ask(f"{server}/predict", make_photo(), Content_Type="image/png", X_Request_ID="a b;c")
    assert bad[2]["x-request-id"] != "a b;c"
    assert len(bad[2]["x-request-id"]) == 16


GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
TIFF = b"II*\0\x08\0\0\0" + bytes(200)
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="http://x/"/></svg>'
)


@pytest.mark.parametrize("body", [GIF, TIFF, SVG, b"hello", b"http://127.0.0.1/x.png", b"\0" * 50])
def test_refuses_what_is_no_image(server: str, body: bytes) -> None:
    error(send(server, body), 400, "not an image of a known format")
    error(send(server, form(("image", body, "a.png")), FORM), 400, "not an image")


def test_refuses_an_empty_body(server: str) -> None:
    error(send(server, b""), 400, "empty")
    error(send(server, form(("image", b"", "a.png")), FORM), 400, "empty")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_refuses_a_truncated_photo(server: str, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 60, 3), np.uint8)
    content = cv2.imencode(suffix, noise)[1].tobytes()
    error(send(server, content[: len(content) // 2]), 400, "truncated")


def bomb(side: int) -> bytes:
    """A PNG of side x side pixels in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_refuses_too_many_pixels_before_decoding(server: str) -> None:
    content = bomb(20_000)
    assert len(content) < 100_000
    error(send(server, content), 413, "million pixels")


def test_refuses_too_many_bytes_before_reading_them(server: str) -> None:
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str(100 * 2**20))
    connection.endheaders()
    with contextlib.closing(connection):
        answer = connection.getresponse()  # though no byte of the body was sent
        assert answer.status == 413
        assert "20 MB" in json.loads(answer.read())["error"]


def test_refuses_too_many_bytes_that_were_not_declared(server: str) -> None:
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=20)
    pieces = (bytes(2**20) for _ in range(30))
    with contextlib.closing(connection):
        try:
            connection.request(
                "POST", "/predict", pieces, {"Content-Type": "image/png"}, encode_chunked=True
            )
        except (BrokenPipeError, ConnectionResetError):
            return  # cut off while sending: refused, too
        assert connection.getresponse().status == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "", "application/pdf"])
def test_refuses_other_content_types(server: str, make_photo: Photo, kind: str) -> None:
    error(send(server, make_photo(), kind), 415, "image")
    error(send(server, make_photo(), kind, "/predict_batch"), 415, "images")


def test_refuses_wrong_fields(server: str, make_photo: Photo) -> None:
    one = ("image", make_photo(), "a.png")
    error(send(server, form(), FORM), 422, "no field 'image'")
    error(send(server, form(one, one), FORM), 422, "at most 1")
    error(send(server, form(("photo", make_photo(), "a.png")), FORM), 422, "photo", "image")
    error(send(server, form(("image", "text", None)), FORM), 422, "must be a file")


def test_refuses_wrong_batches(server: str, make_photo: Photo) -> None:
    many = [("images", make_photo(), "a.png")] * 65
    error(send(server, form(*many), FORM, "/predict_batch"), 422, "at most 64")
    error(send(server, form(("image", b"", "a")), FORM, "/predict_batch"), 422, "images")


def test_never_fetches_an_address(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1.5)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/sign.png"
        error(send(server, form(("image", address, None)), FORM), 422, "not fetched")
        error(send(server, form(("image", address, address)), FORM), 400)
        error(send(server, form(("image", "file:///etc/passwd", None)), FORM), 422)
        error(send(server, form(("images", address, None)), FORM, "/predict_batch"), 422)
        error(send(server, address.encode()), 400)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data;x"]
)
def test_refuses_a_form_without_boundary(server: str, make_photo: Photo, kind: str) -> None:
    error(send(server, form(("image", make_photo(), "a.png")), kind), 400, "boundary")


def test_refuses_forms_that_are_cut_off_or_of_another_boundary(
    server: str, make_photo: Photo
) -> None:
    body = form(("image", make_photo(), "a.png"))
    error(send(server, body[:-20], FORM), 400, "cut off")
    error(send(server, body, "multipart/form-data; boundary=other"), 400)
    error(send(server, b"nonsense", FORM), 400)


def test_a_file_name_cannot_add_headers(server: str, make_photo: Photo) -> None:
    name = 'a.png"\r\nX-Evil: 1\r\nSet-Cookie: a=b; x="'
    status, _, headers = send(server, form(("image", make_photo(), name)), FORM)
    assert status in (200, 400, 422)
    assert "x-evil" not in headers
    assert "set-cookie" not in headers


def test_unknown_paths_and_methods(server: str, make_photo: Photo) -> None:
    error(ask(f"{server}/nothing"), 404, "docs.json")
    error(ask(f"{server}/predict/", make_photo()), 404)
    error(ask(f"{server}/predict"), 405, "POST")
    assert ask(f"{server}/predict", method="DELETE")[2]["allow"] == "POST"
    error(ask(f"{server}/model", b"x"), 405, "GET")
    error(ask(f"{server}/readyz", b"x"), 405, "GET")
    assert ask(f"{server}/model", method="HEAD")[0] == 200


@pytest.mark.slow
def test_a_slow_body_is_given_up(server: str, make_photo: Photo) -> None:
    body = make_photo()
    host, _, port = server.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head(body))
        started = time.monotonic()
        for byte in body[:14]:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(1)
        assert b" 408 " in connection.recv(4096)
        assert time.monotonic() - started < 16


def test_a_client_that_hangs_up_harms_nobody(server: str, make_photo: Photo) -> None:
    body = make_photo(side=400)
    host, _, port = server.removeprefix("http://").partition(":")
    whole = head(body) + body
    for sent in (whole[:20], head(body), whole[: -len(body) // 2], whole):
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(sent)
