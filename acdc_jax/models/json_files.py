"""JSON files of Hugging Face folders, each of which holds an object."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.models.fetched_files import check_fetched


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        AcdcError: The file is missing, unreadable, or not a JSON object.
    """
    check_fetched(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AcdcError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise AcdcError(f"{path}: not JSON: {error}; download it again") from None
    except RecursionError:
        raise AcdcError(f"{path}: too many brackets within each other; download it again") from None
    if not isinstance(value, dict):
        raise AcdcError(f"{path}: not a JSON object; download it again")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
