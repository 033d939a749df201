"""Fields of a multipart form (RFC 7578), from the body of a request."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


class FormError(Exception):
    """The body is not a complete multipart form; the text says why."""


class TooManyPartsError(FormError):
    """The form has more fields than are allowed."""


@dataclass
class Part:
    """One field of a form.

    Attributes:
        name: name of the field.
        is_file: True for a file, False for text.
        content: bytes of the file or text.
    """

    name: str = ""
    is_file: bool = False
    content: bytes = b""


def parse(body: bytes, content_type: str, max_parts: int) -> list[Part]:
    """The parts of a multipart/form-data body, in order.

    Raises:
        TooManyPartsError: there are more than `max_parts`.
        FormError: the boundary is missing, or the body is no form or was cut off.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise FormError("the Content-Type of the form names no boundary")
    collector = _Collector(max_parts)
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise FormError(f"the form cannot be read: {error}") from error
    if not collector.ended:
        raise FormError("the form is cut off")
    return collector.parts


class _Collector:
    def __init__(self, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._max_parts = max_parts
        self._chunks: list[bytes] = []
        self._header, self._value = b"", b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise TooManyPartsError(f"the form has more than {self._max_parts} fields")
        self.parts.append(Part())
        self._chunks = []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        part, name = self.parts[-1], self._header.decode("latin-1").lower()
        if name == "content-disposition":
            options = parse_options_header(self._value)[1]
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            part.is_file |= b"filename" in options
        elif name == "content-type":
            kind = self._value.lower()
            part.is_file |= kind.startswith((b"image/", b"application/octet-stream"))
        self._header, self._value = b"", b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def _part_end(self) -> None:
        self.parts[-1].content = b"".join(self._chunks)

    def _end(self) -> None:
        self.ended = True
