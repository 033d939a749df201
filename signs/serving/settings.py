"""The numbers among the service's settings, which are environment variables."""

import os
from typing import TypeVar

Number = TypeVar("Number", int, float)


def number(name: str, default: Number) -> Number:
    """The variable's value, at least 0, or the default if it is unset or empty.

    Raises:
        SystemExit: the value is no such number; the text says so.
    """
    text = os.environ.get(name, "").strip() or default
    kind = type(default)
    try:
        value = kind(text)
        if value >= 0:
            return value
    except ValueError:
        pass
    what = "a whole number" if kind is int else "a number"
    raise SystemExit(f"ERROR: {name} is {text!r}, but must be {what}, at least 0.")
