"""Values of fields of a Hugging Face `config.json`."""

import math
from collections.abc import Mapping
from typing import Any

from acdc_jax.errors import AcdcError

Fields = Mapping[str, Any]

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # layers with and without a window


def number(fields: Fields, name: str, default: float | None = None) -> float:
    """Return a finite number; the default if the field is missing or null.

    Raises:
        AcdcError: The field is not such a number, or is missing and has no default.
    """
    value = fields.get(name)
    value = default if value is None else value
    if value is None:
        raise AcdcError(f"field {name} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise AcdcError(f"field {name} = {value!r} is not a number")
    return value


def integer(fields: Fields, name: str, default: int | None = None) -> int:
    """Return an integer; the default if the field is missing or null.

    Raises:
        AcdcError: As `number`, or it is a fraction.
    """
    value = number(fields, name, default)
    if value != int(value):
        raise AcdcError(f"field {name} = {value!r} is not an integer")
    return int(value)


def truth(fields: Fields, name: str, default: bool = False) -> bool:
    """Return whether a field is true; the default if it is missing or null.

    Raises:
        AcdcError: The field is neither true nor false.
    """
    value = fields.get(name)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise AcdcError(f"field {name} = {value!r} is neither true nor false")
    return value
