"""Folders that stand for a base with a LoRA adapter: links to the files of both.

Nothing is merged on disk: `find_tensors` applies the adapter to each weight when it is read.
"""

import json
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.models import hub
from acdc_jax.models.adapters.apply import unties
from acdc_jax.models.adapters.config import EMBEDDING, FILE, recorded_base
from acdc_jax.models.adapters.files import Part, read_adapter
from acdc_jax.models.cached_folders import cached_folder
from acdc_jax.models.families import ties_embeddings
from acdc_jax.models.json_files import read_json, write_json
from acdc_jax.models.multimodal import is_wrapper
from acdc_jax.models.text_files import MODEL_CARD, TEXT_FILES, TOKENIZER_FILES, list_files
from acdc_jax.models.tokenizer_files import VOCABULARIES

_BASE, _ADAPTER = "acdc_base", "acdc_adapter"  # links to the two folders


def is_adapted(folder: Path) -> bool:
    """Return whether a folder is one that `adapt_folder` made."""
    return (folder / _ADAPTER).is_symlink()


def base_of(folder: Path) -> Path:
    """Return the folder of the base of an adapted folder."""
    return (folder / _BASE).resolve()


def adapter_of(folder: Path) -> Path:
    """Return the folder of the adapter of an adapted folder."""
    return (folder / _ADAPTER).resolve()


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has an adapter and no model.

    Raises:
        AcdcError: It has both; or neither, but a part of an adapter, or adapters in its subfolders.
    """
    if not (folder / FILE).is_file():
        if not (folder / "config.json").exists():
            _check_parts(folder)
        return False
    if weights := next((path for name in hub.WEIGHTS for path in folder.glob(name)), None):
        raise AcdcError(
            f"{folder}: holds a model ({weights.name}) and an adapter ({FILE}); move one of them "
            "to a folder of its own"
        )
    return True


def _check_parts(folder: Path) -> None:
    """Raise AcdcError if a folder without an adapter's configuration has its tensors, or others."""
    if weights := next((name for name in hub.ADAPTER_WEIGHTS if (folder / name).is_file()), None):
        raise AcdcError(f"{folder}: has {weights}, but no {FILE}; download the adapter again")
    if inside := sorted(path.parent.name for path in folder.glob(f"*/{FILE}")):
        raise AcdcError(
            f"{folder}: has adapters in subfolders ({', '.join(inside)}); name one, such as "
            f"{folder / inside[0]}"
        )


def not_a_model(name: str, folder: Path) -> str:
    """Return the message about an adapter that is named where a model should be."""
    base = recorded_base(folder)
    what = f"an adapter of {base!r}" if base else "an adapter"
    return f"{name}: is {what} ({FILE}); name it as BASE+{name}"


def check_adapter(name: str, folder: Path) -> None:
    """Raise AcdcError if a folder has no adapter."""
    if not (folder / FILE).is_file():
        _check_parts(folder)
        raise AcdcError(f"{name}: is no adapter, because it has no {FILE}")


def adapt_folder(base: Path, adapter: Path) -> Path:
    """Return a folder that stands for a base with an adapter.

    Tokenizer and chat template are the adapter's if it has any: tokens may have been added.

    Raises:
        AcdcError: The base has an adapter already, or the adapter is damaged or not supported.
    """
    base, adapter = base.resolve(), adapter.resolve()
    if is_adapted(base):
        raise AcdcError(f"{base}: has an adapter already; a model can have one")
    links = list_files(base, (*TEXT_FILES, MODEL_CARD)) | list_files(adapter, (MODEL_CARD,))
    fields = _config(base, adapter)
    own = list_files(adapter, TOKENIZER_FILES)
    if any(name in own for name in VOCABULARIES):
        has_template = _has_template(own)
        for name in list_files(base, TOKENIZER_FILES):
            if has_template or not name.startswith("chat_template"):
                del links[name]
    links |= own | {_BASE: base, _ADAPTER: adapter}
    if fields != read_json(base / "config.json"):
        del links["config.json"]

    def write(folder: Path) -> None:
        for name, target in links.items():
            (folder / name).symlink_to(target)
        if "config.json" not in links:
            write_json(folder / "config.json", fields)

    key = [sorted((name, str(target)) for name, target in links.items()), fields]
    name = f"{base.name[:20]}-{adapter.name}"
    return cached_folder("adapters", name, json.dumps(key, sort_keys=True), write)


def _config(base: Path, adapter: Path) -> dict[str, Any]:
    """Return the base's configuration, with what the adapter changes in it."""
    fields = read_json(base / "config.json")
    files = read_adapter(adapter)
    if ties_embeddings(fields) and unties(files.config):
        fields["tie_word_embeddings"] = False
    embedding = files.parts.get(EMBEDDING, {}).get(Part.WEIGHT)
    decoder = fields["text_config"] if is_wrapper(fields) else fields
    if embedding is not None and embedding.shape:
        decoder["vocab_size"] = embedding.shape[0]
    return fields


def _has_template(files: dict[str, Path]) -> bool:
    """Return whether tokenizer files have a chat template."""
    if any(name.startswith("chat_template") for name in files):
        return True
    config = files.get("tokenizer_config.json")
    return config is not None and bool(read_json(config).get("chat_template"))
