"""The inputs and outputs of the service, as BentoML's client and its OpenAPI document see them."""

from pathlib import Path
from typing import Annotated, Any

from bentoml import IODescriptor
from bentoml.validators import ContentType
from pydantic import BaseModel
from starlette.requests import Request

Photo = Annotated[Path, ContentType("image/*")]
Picture = Annotated[Path, ContentType("image/png")]


class _Sent(IODescriptor):  # type: ignore[misc]
    """Hands the request on as it is: `Endpoints` reads it, within its limits."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Any:
        """Nothing is read yet."""
        first, *others = cls.model_fields
        return cls.model_construct(**{first: request, **dict.fromkeys(others)})


class OnePhoto(_Sent):
    """A photo, and where the sign on it is: x1,y1,x2,y2 in pixels."""

    image: Photo
    box: str | None = None


class Photos(_Sent):
    """Photos, at most 64."""

    images: list[Photo]


class Candidate(BaseModel):
    """A class and its calibrated probability, 0 to 1."""

    prediction: int
    name: str
    confidence: float


class Prediction(Candidate):
    """The most probable class, whether it is accepted, and the five most probable ones."""

    known: bool
    top: list[Candidate]
    model: str
