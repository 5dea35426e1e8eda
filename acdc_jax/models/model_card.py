"""What a model's card says: `README.md` in its folder, whose header is YAML."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.models.adapters.folder import adapter_of, base_of, is_adapted
from acdc_jax.models.json_files import read_json
from acdc_jax.models.text_files import MODEL_CARD

UNKNOWN = "unknown"


def licence_of(folder: Path) -> str:
    """Return the licence that a model's card, or else its configuration, states, or `UNKNOWN`.

    A base with an adapter has the licences of both.
    """
    if is_adapted(folder):
        return " and ".join(dict.fromkeys(map(licence_of, (base_of(folder), adapter_of(folder)))))
    licence = _header(folder).get("license")
    if not licence:
        with contextlib.suppress(AcdcError):
            licence = read_json(folder / "config.json").get("license")
    return licence if isinstance(licence, str) and licence else UNKNOWN


def bases_of(folder: Path) -> tuple[str, ...]:
    """Return the Hub ids of the models that a model was made from, as its card names them."""
    bases = _header(folder).get("base_model")
    names = bases if isinstance(bases, list) else [bases]
    return tuple(name for name in names if isinstance(name, str) and name)


def _header(folder: Path) -> Mapping[str, Any]:
    """Return the fields of a card's header; empty if there is none, or it cannot be read."""
    from huggingface_hub import ModelCard

    try:
        fields: dict[str, Any] = ModelCard.load(folder / MODEL_CARD).data.to_dict()
    except Exception:  # of the file system, the library or its YAML parser: unrelated classes
        return {}
    return fields
