"""A GGUF file as a Hugging Face folder, which holds all but the weights."""

import re
from functools import partial
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.models.cached_folders import cached_folder
from acdc_jax.models.families import from_hf
from acdc_jax.models.gguf.config import hf_config
from acdc_jax.models.gguf.header import GgufHeader, is_gguf, read_header
from acdc_jax.models.gguf.tensors import SINGLE, list_tensors
from acdc_jax.models.gguf.tokenizer import write_tokenizer
from acdc_jax.models.hf import hf_names
from acdc_jax.models.hf_export import transformers_version
from acdc_jax.models.json_files import write_json
from acdc_jax.models.text_files import MODEL_CARD

SUFFIX = ".gguf"
_HUB = "https://huggingface.co/"
_VERSION = 2  # of the conversion; a new one makes new folders


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that a path stands for, if it stands for one.

    Args:
        path: The file, whatever its name, or a folder that holds one such file and no
            `config.json`.

    Raises:
        AcdcError: The folder holds several.
    """
    if path.is_file() and (_has_suffix(path) or is_gguf(path)):
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(file for file in path.iterdir() if _has_suffix(file) and file.is_file())
    if len(files) > 1:
        raise AcdcError(
            f"{path}: holds several GGUF files; name one of them: "
            f"{', '.join(file.name for file in files[:5])}"
        )
    return files[0] if files else None


def _has_suffix(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX


def gguf_folder(file: Path) -> Path:
    """Return a folder with a GGUF file's configuration and tokenizer, and a link to the file.

    It is made once, in the cache.

    Args:
        file: The file.

    Raises:
        AcdcError: The file is damaged, or of a kind that is not supported.
    """
    file = absolute(file)
    status = file.stat()
    key = f"{_VERSION} {file} {status.st_size} {status.st_mtime_ns}"
    return cached_folder("gguf", file.stem, key, partial(_write, file))


def absolute(file: Path) -> Path:
    """Return an absolute path that keeps the file's name, even if the file is a link."""
    return file.parent.resolve() / file.name


def _write(file: Path, folder: Path) -> None:
    """Write everything but the weights, after a check that all of them are there."""
    header = read_header(file)
    fields = hf_config(header)
    config, tensors = from_hf(fields, str(file)), list_tensors(file)
    for name in hf_names(config).values():
        if name not in tensors:
            raise AcdcError(f"{file}: tensor {name} is missing; download it again")
    write_json(
        folder / "config.json", fields | {"transformers_version": transformers_version(folder)}
    )
    write_tokenizer(header, folder)
    (folder / MODEL_CARD).write_text(_card(header), encoding="utf-8")
    (folder / SINGLE).symlink_to(file)


def _card(header: GgufHeader) -> str:
    """Return a model card with the licence and the base that the metadata states."""
    from huggingface_hub import ModelCardData

    licence = header.metadata.get("general.license")
    urls = [
        str(value).removeprefix(_HUB)
        for key, value in header.metadata.items()
        if re.fullmatch(r"general\.base_model\.\d+\.repo_url", key)
        if str(value).startswith(_HUB)
    ]
    fields = ModelCardData(
        license=licence if isinstance(licence, str) else None, base_model=urls or None
    )
    return f"---\n{fields.to_yaml()}\n---\n"
