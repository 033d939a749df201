"""HTML and Markdown pages, made by Jinja2 from the templates in this folder.

A template whose name ends with .html escapes all that it is given; one that ends with .md does not.
"""

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined, select_autoescape

ABSENT = "–"
PICTURE_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def render(template: str, **context: Any) -> str:
    """The page that a template of signs/reporting/templates makes of these values.

    Raises:
        jinja2.UndefinedError: the template prints or tests a name that it was not given.
    """
    return _ENVIRONMENT.get_template(template).render(context)


def percent(share: Any, digits: int = 2) -> str:
    """A share of 1 as a percentage; both filters show what is absent as "–"."""
    return ABSENT if _absent(share) else f"{100 * float(share):.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: Any, digits: int = 0) -> str:
    """A number with this many decimal places and separators of thousands."""
    return ABSENT if _absent(value) else f"{float(value):,.{digits}f}"


def picture(path: Path) -> str:
    """A .png or .jpg file as a data URI, so that the page needs no other file; "" if missing."""
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{PICTURE_TYPES[path.suffix]};base64,{content}"


def _absent(value: Any) -> bool:
    return isinstance(value, Undefined) or bool(pd.isna(value))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"], default=False),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"percent": percent, "number": number, "picture": picture}
