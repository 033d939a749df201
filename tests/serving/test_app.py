"""The HTTP interface: predictions, documents, and a helpful error for every bad request."""

import base64
import contextlib
import http.client
import io
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Server, photo
from tests.serving.clients import connect, head

FORM = "multipart/form-data; boundary=frontier"
GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
PHOTO = photo("Green")


def form(*parts: tuple[str, bytes, str | None]) -> bytes:
    """Fields of (name, content, file name or None for a text field)."""
    body = b""
    for name, content, file in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
        head = f"--frontier\r\nContent-Disposition: {disposition}\r\n\r\n"
        body += head.encode() + content + b"\r\n"
    return body + b"--frontier--\r\n"


IMAGE, IMAGES = ("image", PHOTO, "a.png"), ("images", PHOTO, "a.png")


@pytest.fixture(autouse=True)
def still_predicts(running: Server) -> Iterator[None]:
    """Whatever a test sends, the next good request succeeds."""
    yield
    reply = running.send(photo("Red"))
    assert (reply.status, reply.body["name"]) == (200, "Red")


def test_photos_of_one_batch_get_their_own_predictions(running: Server) -> None:
    bodies = {color: photo(color) for color in ("Red", "Green")} | {"damaged": b"\x89PNG"}
    alone = {name: running.send(body) for name, body in bodies.items()}
    names = list(bodies) * 40
    with ThreadPoolExecutor(24) as clients:
        replies = list(clients.map(lambda name: running.send(bodies[name]), names))
    assert [reply.body for reply in replies] == [alone[name].body for name in names]
    assert [alone[name].status for name in bodies] == [200, 200, 400]


def test_predicts_a_form_and_a_raw_body_alike(running: Server) -> None:
    reply = running.send(PHOTO)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert list(reply.body) == ["prediction", "name", "confidence", "known", "top", "model"]
    assert (reply.body["prediction"], reply.body["name"]) == (14, "Green")
    assert reply.body["known"] is True
    assert reply.body["confidence"] > 0.99
    top = reply.body["top"]
    assert (len(top), top[0]["prediction"]) == (3, 14)
    assert sum(candidate["confidence"] for candidate in top) == pytest.approx(1, abs=1e-5)
    assert len(reply.body["model"]) == 12
    assert running.send(form(IMAGE), kind=FORM).body == reply.body
    assert running.send(photo("Grey")).body["known"] is False


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".ppm"])
@pytest.mark.parametrize("kind", ["image/png", "image/x-anything", "application/octet-stream"])
def test_reads_these_formats_whatever_they_are_called(
    running: Server, suffix: str, kind: str
) -> None:
    assert running.send(photo("Blue", suffix), kind=kind).body["name"] == "Blue"


def test_explains_with_a_picture(running: Server) -> None:
    halves = np.full((40, 40, 3), 255, np.uint8)
    halves[:, :20] = (0, 0, 255)
    reply = running.send(cv2.imencode(".png", halves)[1].tobytes(), "/explain")
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    picture = cv2.imdecode(np.frombuffer(reply.body, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (16, 16, 3)
    luma = picture.astype(float).sum(axis=2)
    assert np.ptp(luma.mean(axis=0)) > np.ptp(luma.mean(axis=1))  # it shows the halves


def test_batch_keeps_the_order_and_goes_on_after_a_bad_photo(running: Server) -> None:
    colors = ["Red", "Blue", "Green"] * 21
    parts = [("images", photo(color), f"{i}.png") for i, color in enumerate(colors)]
    parts.insert(5, ("images", b"no image", "x.txt"))
    reply = running.send(form(*parts), "/predict_batch", FORM)
    assert (reply.status, len(reply.body)) == (200, 64)
    assert list(reply.body.pop(5)) == ["error"]
    assert [prediction["name"] for prediction in reply.body] == colors


def test_documents(running: Server) -> None:
    model = running.ask("/model").body
    assert model["classes"][1] == {"prediction": 14, "name": "Green"}
    assert (model["fingerprint"], model["dataset"]) == ("c0ffee", "colors")
    assert model["metrics"]["validation"]["accuracy"] == 1.0
    page = running.ask("/demo")
    assert running.ask("/").body == page.body  # and not BentoML's, which loads a tracker
    assert b"<html" in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]
    document = running.ask("/docs.json").body
    assert {"/predict", "/predict_batch", "/explain", "/model", "/readyz"} <= set(document["paths"])
    for path in ("/livez", "/readyz", "/"):
        assert running.ask(path).status == 200


def test_metrics_count_classes_unknown_and_requests(running: Server) -> None:
    def counts() -> dict[str, float]:
        lines = running.ask("/metrics").body.decode().splitlines()
        split = (line.rpartition(" ") for line in lines if line.startswith("signs_"))
        return {name: float(value) for name, _, value in split}

    before = counts()
    for body in (photo("Blue"), photo("Grey"), b"no image"):
        running.send(body)
    running.ask("/nothing/4711")
    running.ask("/predict")
    after = counts()
    for name in (
        'predictions_total{prediction="20"}',
        'predictions_total{prediction="unknown"}',
        "photos_refused_total",
        'request_duration_seconds_count{path="/predict",status="400"}',
        'request_duration_seconds_count{path="other",status="404"}',
        'request_duration_seconds_count{path="/predict",status="405"}',
    ):
        assert after[f"signs_{name}"] - before.get(f"signs_{name}", 0) == 1, name
    assert not any("4711" in name for name in after)


def test_request_id_is_the_clients_or_a_new_one(running: Server) -> None:
    headers = {"Content_Type": "image/png"}
    given = running.ask("/predict", PHOTO, X_Request_ID="abc-1.2", **headers)
    assert given.headers["x-request-id"] == "abc-1.2"
    bad = running.ask("/predict", PHOTO, X_Request_ID="a b;c", **headers)
    assert len(bad.headers["x-request-id"]) == 16


BOMB = io.BytesIO()  # many pixels in few bytes
Image.new("1", (20_000, 20_000)).save(BOMB, "PNG")


@pytest.mark.parametrize("sent_as", ["body", "form", "explain"])
@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "the file is empty"),
        (GIF, 400, "1x1 pixels is too small"),
        (PHOTO[:-12], 400, "the PNG file is truncated"),
        (BOMB.getvalue(), 413, "more than 50 million pixels"),  # refused before it is decoded
    ],
)
def test_refuses_what_is_no_usable_photo(
    running: Server, sent_as: str, content: bytes, status: int, words: str
) -> None:
    if sent_as == "form":
        reply = running.send(form(("image", content, "a.png")), kind=FORM)
    else:
        reply = running.send(content, "/explain" if sent_as == "explain" else "/predict")
    assert (reply.status, words in reply.error) == (status, True)


ONE, BATCH = "/predict", "/predict_batch"
OTHER_TYPES = ("text/plain", "application/json", "", "application/pdf")


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "words"),
    [
        *((ONE, b"no photo", kind, 415, "form field 'image'") for kind in ("text/plain", "")),
        (ONE, PHOTO, "application/json", 400, "the body is no JSON"),
        *((BATCH, PHOTO, kind, 415, "1 to 64 files named 'images'") for kind in OTHER_TYPES),
        (ONE, form(), FORM, 422, "no field 'image'"),
        (ONE, form(IMAGE, IMAGE), FORM, 422, "at most 1 file in 'image'"),
        (ONE, form(("photo", b"text", None)), FORM, 422, "'photo'; only 'image' is allowed"),
        (ONE, form(IMAGE, *[("box", b"1", None)] * 3), FORM, 422, "more than 3 fields"),
        (ONE, form(IMAGE, *[("box", b"0,0,9,9", None)] * 2), FORM, 422, "at most one field 'box'"),
        (ONE, form(IMAGE, ("box", b"5", None)), FORM, 422, "four numbers"),
        (ONE, form(IMAGE, ("box", b"[" * 10**5, None)), FORM, 400, "is no box"),
        (ONE, PHOTO, "application/vnd.bentoml+pickle", 415, "pickle"),
        (ONE, form(("image", b"text", None)), FORM, 422, "'image' must be a file"),
        (BATCH, form(*[IMAGES] * 65), FORM, 422, "at most 64 files in 'images'"),
        (BATCH, form(IMAGE), FORM, 422, "'image'; only 'images' is allowed"),
        (ONE, form(IMAGE), "multipart/form-data", 400, "boundary"),
        (ONE, form(IMAGE), "multipart/form-data; boundary=", 400, "boundary"),
        (ONE, form(IMAGE), "multipart/form-data;x", 400, "boundary"),
        (ONE, form(IMAGE)[:-20], FORM, 400, "cut off"),
        (ONE, form(IMAGE), "multipart/form-data; boundary=other", 400, "form"),
        (ONE, b"nonsense", FORM, 400, "form"),
    ],
)
def test_refuses_other_types_and_wrong_forms(
    running: Server, path: str, body: bytes, kind: str, status: int, words: str
) -> None:
    reply = running.send(body, path, kind)
    assert (reply.status, words in reply.error) == (status, True)


ENCODED = base64.b64encode(PHOTO).decode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        *((PHOTO, kind) for kind in ("", "text/plain", "application/octet-stream", "image/x")),
        *((form((name, PHOTO, "a.png")), FORM) for name in ("image", "file", "photo")),
        (json.dumps({"image": ENCODED}).encode(), "application/json"),
        (json.dumps({"image": f"data:image/png;base64,{ENCODED}"}).encode(), "application/json"),
    ],
)
def test_a_photo_may_be_sent_in_many_ways(running: Server, body: bytes, kind: str) -> None:
    reply = running.send(body, ONE, kind)
    assert (reply.status, reply.body) == (200, running.send(PHOTO).body)


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ({}, 422, "addresses are not fetched"),
        ({"image": 1}, 422, "addresses are not fetched"),
        ({"image": "http://127.0.0.1/a.png"}, 400, "no base64"),
        ({"image": base64.b64encode(b"no photo").decode()}, 400, "known format"),
        ({"image": ENCODED, "url": "x"}, 422, "unknown key 'url'"),
        ({"image": ENCODED, "box": {"x": 1}}, 422, "four numbers"),
        ([ENCODED], 422, "addresses are not fetched"),
    ],
)
def test_json_without_a_photo_is_refused(
    running: Server, content: object, status: int, words: str
) -> None:
    reply = running.send(json.dumps(content).encode(), ONE, "application/json")
    assert (reply.status, words in reply.error) == (status, True)


def test_a_box_says_where_the_sign_is(running: Server) -> None:
    street = np.full((120, 160, 3), (40, 40, 120), np.uint8)  # BGR
    sign = cv2.imdecode(np.frombuffer(PHOTO, np.uint8), cv2.IMREAD_COLOR)
    street[30:70, 100:140] = cv2.resize(sign, (40, 40))
    content = cv2.imencode(".png", street)[1].tobytes()
    assert running.send(content).body["name"] == "Red"
    box = "100,30,140,70"
    in_json = {"image": base64.b64encode(content).decode(), "box": [100, 30, 140, 70]}
    replies = [
        running.send(content, f"{ONE}?box={box}"),
        running.send(form(("image", content, "a.png"), ("box", box.encode(), None)), ONE, FORM),
        running.send(json.dumps(in_json).encode(), ONE, "application/json"),
    ]
    assert [reply.body["name"] for reply in replies] == ["Green"] * 3
    assert running.send(content, f"/explain?box={box}").status == 200


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("1,2,3", "is no box: give x1,y1,x2,y2 in pixels"),
        ("a,b,c,d", "is no box"),
        ("9,9,5,20", "is no box"),
        ("nan,0,9,9", "is no box"),
        ("0,0,inf,9", "is no box"),
        ("500,500,600,600", "shows too little of a photo of"),
        ("0,0,0.5,9", "shows too little of a photo of"),
    ],
)
def test_a_box_that_shows_nothing_is_refused(running: Server, box: str, words: str) -> None:
    reply = running.send(PHOTO, f"{ONE}?box={box}")
    assert (reply.status, words in reply.error) == (400, True)


def test_refuses_too_many_bytes(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(head(100 * 2**20))
        response = http.client.HTTPResponse(connection)
        response.begin()  # though no byte of the body was sent
        assert response.status == 413
        assert "20 MB" in json.loads(response.read())["error"]
    undeclared = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    pieces = (bytes(2**20) for _ in range(30))
    headers = {"Content-Type": "image/png"}
    # It may be cut off while it is sending: refused, too.
    with contextlib.closing(undeclared), contextlib.suppress(BrokenPipeError, ConnectionResetError):
        undeclared.request("POST", "/predict", pieces, headers, encode_chunked=True)
        assert undeclared.getresponse().status == 413


def test_never_fetches_an_address(running: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1.5)
        name = f"http://127.0.0.1:{listener.getsockname()[1]}/sign.png"
        address = name.encode()
        for part, path, status, words in (
            (("image", address, None), ONE, 422, "not fetched"),
            (("image", address, name), ONE, 400, "known format"),
            (("image", b"file:///etc/passwd", None), ONE, 422, "not fetched"),
            (("images", address, None), BATCH, 422, "not fetched"),
        ):
            reply = running.send(form(part), path, FORM)
            assert (reply.status, words in reply.error) == (status, True)
        assert running.send(address).status == 400
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("path", "body", "method", "status", "words"),
    [
        ("/nothing", None, "GET", 404, "docs.json"),
        ("/predict/", PHOTO, "POST", 404, "docs.json"),
        ("/predict", None, "GET", 405, "POST"),
        ("/predict", None, "DELETE", 405, "POST"),
        ("/model", b"x", "POST", 405, "GET"),
        ("/readyz", b"x", "POST", 405, "GET"),
        ("/schema.json", b"x", "POST", 405, "GET"),
        ("/api/predict", None, "GET", 405, "POST"),
    ],
)
def test_refuses_other_paths_and_methods(
    running: Server, path: str, body: bytes | None, method: str, status: int, words: str
) -> None:
    reply = running.ask(path, body, method)
    assert (reply.status, words in reply.error) == (status, True)
    allowed = {"GET": "GET, HEAD", "POST": "POST"}
    assert status == 404 or reply.headers["allow"] == allowed[words]
    assert running.ask("/model", method="HEAD").status == 200


@pytest.mark.slow
def test_gives_up_a_slow_body(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(head(len(PHOTO)))
        started = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in PHOTO[:14]:
                connection.sendall(bytes([byte]))
                time.sleep(1)
        assert b" 408 " in connection.recv(4096)
        assert time.monotonic() - started < 16


def test_a_client_that_hangs_up_disturbs_nobody(running: Server) -> None:
    body = photo(side=400)
    whole = head(len(body)) + body
    for sent in (whole[:20], head(len(body)), whole[: -len(body) // 2], whole):
        for _ in range(20):
            with connect(running) as connection:
                connection.sendall(sent)
