"""Made-up requests: from the service's own OpenAPI document, and from damaged files."""

import functools
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signs.data import images
from signs.serving import forms

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


@pytest.mark.slow
def test_answers_as_its_openapi_document_says(server: str, tmp_path: Path) -> None:
    # Made-up bytes are never an image, which is what 400 is for; that a good photo is accepted,
    # and what is wrong refused, is test_api.py's.
    command = [str(SCHEMATHESIS), "run", f"{server}/docs.json", "--url", server]
    checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
        "allow_header_conformance",
    ]
    command += ["--include-path-regex", "^/(predict|predict_batch|explain|model|demo)$"]
    command += ["--checks", ",".join(checks), "--max-examples", "200", "--seed", "1"]
    command += ["--phases", "coverage,fuzzing", "--warnings", "off"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"Tested: +5", done.stdout)


@functools.cache
def files() -> list[bytes]:
    picture = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    suffixes = (".png", ".jpg", ".webp", ".bmp", ".ppm")
    return [cv2.imencode(suffix, picture)[1].tobytes() for suffix in suffixes]


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """An image file with some bytes changed, left out, doubled or added."""
    content = bytearray(draw(st.sampled_from(files())))
    for _ in range(draw(st.integers(1, 8))):
        # Headers are where it hurts.
        place = draw(st.one_of(st.integers(0, 64), st.integers(0, len(content))))
        kind = draw(st.sampled_from(["change", "remove", "insert", "repeat", "cut"]))
        if kind == "change":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "repeat":
            content[place:place] = content[place : place + draw(st.integers(1, 200))]
        else:
            del content[-draw(st.integers(1, 200)) :]
    return bytes(content)


@settings(max_examples=1000, deadline=None)
@given(st.one_of(damaged_files(), st.binary(max_size=200)))
def test_a_file_is_an_image_or_an_error_of_ours(content: bytes) -> None:
    try:
        image = images.decode(content)
    except images.ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert min(image.shape[:2]) >= images.MIN_SIDE


LINES = [
    b"--b",
    b"--b--",
    b"\r\n",
    b"Content-Disposition: form-data; name=",
    b'"image"',
    b'; filename="a.png"',
    b"; filename*=utf-8''%00",
    b"Content-Type: image/png",
    b"Content-Transfer-Encoding: base64",
    b":",
    b'"',
    b"\n",
    b"\0",
]


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=30)), max_size=30).map(b"".join),
    st.one_of(
        st.just("multipart/form-data; boundary=b"),
        st.text(st.characters(max_codepoint=255), max_size=60),
    ),
)
def test_a_form_has_few_parts_or_is_refused(body: bytes, content_type: str) -> None:
    try:
        parts = forms.parse(body, content_type, 3)
    except forms.FormError:
        return
    assert len(parts) <= 3
    assert sum(len(part.content) for part in parts) <= len(body)


def test_the_service_survives_damaged_files(server: str, make_photo: Callable[..., bytes]) -> None:
    @settings(
        max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(damaged_files(), st.sampled_from(["/predict", "/explain"]))
    def send(content: bytes, path: str) -> None:
        request = urllib.request.Request(server + path, content, {"Content-Type": "image/png"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            error.close()
            status = error.code
        assert status in (200, 400, 413)

    send()
    good = urllib.request.Request(
        f"{server}/predict", make_photo("Red"), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(good, timeout=30) as answer:
        assert b'"Red"' in answer.read()
