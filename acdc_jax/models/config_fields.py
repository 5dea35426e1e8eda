"""Values of fields of a Hugging Face `config.json`."""

from collections.abc import Mapping
from typing import Any

from acdc_jax.errors import AcdcError

Fields = Mapping[str, Any]

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # layers with and without a window


def number(fields: Fields, name: str, default: float | None = None) -> float:
    """Return a number; the default if the field is missing or null.

    Raises:
        AcdcError: The field is not a number, or is missing and has no default.
    """
    value = fields.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        problem = "is missing" if value is None else f"= {value!r} is not a number"
        raise AcdcError(f"field {name} {problem}")
    return value
