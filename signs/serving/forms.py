"""The files of a multipart form (RFC 7578), from the body of a request."""

import base64
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from signs.data.images import MAX_BYTES
from signs.serving.refused import Refused

FILE_TYPES = (b"image/", b"application/octet-stream")


class Form(NamedTuple):
    """What a form holds: its files, in order, and its other fields."""

    files: list[bytes]
    texts: dict[str, str]


def read(body: bytes, content_type: str, name: str, most: int, texts: Iterable[str] = ()) -> Form:
    """A multipart/form-data body with at most `most` files in fields of this name.

    If it may have one file, its field may have any name. Texts are allowed in the named fields.

    Raises:
        Refused: 400 if the body is no complete form; 422 if it has no such field, more than
            `most`, one of another name, or text in place of a file.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refused(400, "the Content-Type of the form names no boundary")
    try:
        parser = _Parser(boundary, most + len(tuple(texts)) + 1)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, f"the form cannot be read: {error}") from error
    if not parser.ended:
        raise Refused(400, "the form is cut off")
    form = Form([], {})
    for headers, chunks in parser.parts:
        options = parse_options_header(headers.get(b"content-disposition"))[1]
        found = options.get(b"name", b"").decode("utf-8", "replace")
        kind = headers.get(b"content-type", b"").lower()
        is_file = b"filename" in options or kind.startswith(FILE_TYPES)
        if found in texts and not is_file:
            if found in form.texts:
                raise Refused(422, f"send at most one field {found!r}")
            form.texts[found] = _text(b"".join(chunks))
        elif found != name and not (most == 1 and is_file):
            raise Refused(422, f"the form has a field {found[:40]!r}; only '{name}' is allowed")
        elif not is_file:
            raise Refused(422, f"'{name}' must be a file, not text; addresses are not fetched")
        else:
            form.files.append(b"".join(chunks))
    if not form.files:
        raise Refused(422, f"the form has no field '{name}'")
    if len(form.files) > most:
        raise Refused(422, f"send at most {most} file{'s' * (most > 1)} in '{name}'")
    return form


def photo_in_json(body: bytes) -> tuple[bytes, str]:
    """The photo and the box in {"image": base64 or data URL, "box": [x1, y1, x2, y2]}.

    Raises:
        Refused: 400 if it is no JSON or no base64; 422 if a key is missing or unknown.
    """
    try:
        content = from_json(body)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from error
    if not (isinstance(content, dict) and isinstance(content.get("image"), str)):
        raise Refused(422, 'send {"image": "<base64>"}; addresses are not fetched')
    if unknown := content.keys() - {"image", "box"}:
        raise Refused(422, f"unknown key {sorted(unknown)[0][:40]!r}; there are 'image' and 'box'")
    box = _box(content.get("box"))
    text = content["image"]
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        photo = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Refused(400, f"'image' is no base64: {error}") from error
    if len(photo) > MAX_BYTES:
        raise Refused(413, f"more than {MAX_BYTES // 2**20} MB")
    return photo, box


def _text(content: bytes) -> str:
    """The content of a text field. BentoML's client writes it as JSON."""
    try:
        return _box(from_json(content))
    except ValueError:
        return content.decode("utf-8", "replace")


def _box(value: Any) -> str:
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if not isinstance(value, str | None):
        raise Refused(422, "'box' must be a list of four numbers or a text, x1,y1,x2,y2")
    return value or ""


class _Parser(MultipartParser):
    """Collects the parts of a form."""

    def __init__(self, boundary: bytes, most: int) -> None:
        super().__init__(boundary)
        # Of each part: the headers by lower-case name, the chunks of its content.
        self.parts: list[tuple[dict[bytes, bytes], list[bytes]]] = []
        self.ended = False
        self._most = most
        self._header, self._value = b"", b""

    def callback(
        self,
        name: str,
        data: bytes | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> None:
        """What the parser found: `name` tells the kind, `data[start:end]` is the content."""
        piece = b"" if data is None else data[start:end]
        match name:
            case "part_begin":
                if len(self.parts) == self._most:
                    raise Refused(422, f"the form has more than {self._most} fields")
                self.parts.append(({}, []))
            case "header_field":
                self._header += piece
            case "header_value":
                self._value += piece
            case "header_end":
                self.parts[-1][0][self._header.lower()] = self._value
                self._header, self._value = b"", b""
            case "part_data":
                self.parts[-1][1].append(piece)
            case "end":
                self.ended = True
