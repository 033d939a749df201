"""The files of a multipart form (RFC 7578), from the body of a request."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from signs.serving.refused import Refused

FILE_TYPES = (b"image/", b"application/octet-stream")


def files(body: bytes, content_type: str, name: str, most: int) -> list[bytes]:
    """The files of a multipart/form-data body, all of which must be in fields of this name.

    Raises:
        Refused: 400 if the body is no complete form; 422 if it has no such field, more than
            `most`, one of another name, or text in place of a file.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refused(400, "the Content-Type of the form names no boundary")
    try:
        parser = _Parser(boundary, name, most)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, f"the form cannot be read: {error}") from error
    if not parser.ended:
        raise Refused(400, "the form is cut off")
    if not parser.parts:
        raise Refused(422, f"the form has no field '{name}'")
    for headers, _ in parser.parts:
        options = parse_options_header(headers.get(b"content-disposition"))[1]
        found = options.get(b"name", b"").decode("utf-8", "replace")
        if found != name:
            raise Refused(422, f"the form has a field {found[:40]!r}; only '{name}' is allowed")
        kind = headers.get(b"content-type", b"").lower()
        if b"filename" not in options and not kind.startswith(FILE_TYPES):
            raise Refused(422, f"'{name}' must be a file, not text; addresses are not fetched")
    return [b"".join(chunks) for _, chunks in parser.parts]


class _Parser(MultipartParser):
    """Collects the parts of a form."""

    def __init__(self, boundary: bytes, name: str, most: int) -> None:
        super().__init__(boundary)
        # Of each part: the headers by lower-case name, the chunks of its content.
        self.parts: list[tuple[dict[bytes, bytes], list[bytes]]] = []
        self.ended = False
        self._name, self._most = name, most
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
                    files = f"{self._most} file{'s' * (self._most > 1)}"
                    raise Refused(422, f"send at most {files} in '{self._name}'")
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
