"""The one exception with which all parts of the service refuse a request."""


class Refused(Exception):  # noqa: N818  # the client's error, not the service's
    """The client gets an error response with this status; the text says why."""

    def __init__(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


def overloaded() -> Refused:
    """For work that would wait too long; the client may try again after a second."""
    return Refused(503, "the service is overloaded; try again shortly", {"retry-after": "1"})
