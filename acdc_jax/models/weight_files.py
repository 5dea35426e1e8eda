"""Find the tensors of a folder: of safetensors or PyTorch's files, or of a GGUF file.

Safetensors and PyTorch's files are one file, or several with an index. Whoever looks for a
decoder's weights finds them under the names and in the precision of a plain Hugging Face model,
however the folder stores them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.models import safetensors_io, torch_io
from acdc_jax.models.adapters.apply import apply_adapter
from acdc_jax.models.adapters.config import DECODER
from acdc_jax.models.adapters.folder import adapter_of, base_of, is_adapted
from acdc_jax.models.fetched_files import check_fetched
from acdc_jax.models.gguf import tensors as gguf_tensors
from acdc_jax.models.json_files import read_json
from acdc_jax.models.multimodal import decoder_names
from acdc_jax.models.quantised import dequantise
from acdc_jax.models.stored_tensors import DTYPES, Stored, Tensor
from acdc_jax.models.text_files import list_files


@dataclass(frozen=True)
class _Format:
    """One format of weight files.

    Attributes:
        index: Name of the index of shards.
        single: Name of the file of a model that is not sharded.
        shards: Pattern of the names of shards.
        list_tensors: Lists the tensors of a file.
    """

    index: str
    single: str
    shards: str
    list_tensors: Callable[[Path], dict[str, Stored]]


_FORMATS = (  # the first one that a folder has counts
    _Format(
        safetensors_io.INDEX,
        safetensors_io.SINGLE,
        "model-*-of-*.safetensors",
        safetensors_io.list_tensors,
    ),
    _Format(torch_io.INDEX, torch_io.SINGLE, "pytorch_model-*-of-*.bin", torch_io.list_tensors),
)


def find_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor in a folder's weight files, without reading any.

    Returns:
        Name → tensor. The decoder's weights have the names of a model without a wrapper
        (`multimodal.py`), and quantised ones are in full precision when they are read.

    Raises:
        AcdcError: There are no weight files, or two sets of them; a file is truncated, a shard is
            missing, or a tensor is missing or in two files; or an adapter does not fit its base.
            The message names file and tensor.
    """
    stored = stored_tensors(folder)
    names = decoder_names(stored)
    return {names.get(name, name): tensor for name, tensor in stored.items()}


def unread_weights(folder: Path) -> list[str]:
    """Return the weight files of a folder that `find_tensors` leaves out, since there are others.

    Returns:
        Their names, without those of shards.
    """
    patterns = [(format.single, format.index) for format in _FORMATS] + [("*.gguf",)]
    formats = [names for pattern in patterns if (names := list(list_files(folder, pattern)))]
    return [name for names in formats[1:] for name in names]


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor in a folder's weight files, under the name that it has there.

    Raises:
        AcdcError: As `find_tensors`.
    """
    if is_adapted(folder):
        return _adapted_tensors(base_of(folder), adapter_of(folder))
    gguf = folder / gguf_tensors.SINGLE
    others = [folder / name for format in _FORMATS for name in (format.single, format.index)]
    if (gguf.is_file() or gguf.is_symlink()) and not any(file.is_file() for file in others):
        return gguf_tensors.list_tensors(gguf)
    tensors = _stored_tensors(folder)
    config = folder / "config.json"
    fields = read_json(config) if config.is_file() else {}
    if settings := fields.get("quantization_config"):
        dtype = str(fields.get("dtype") or fields.get("torch_dtype"))
        return dequantise(tensors, settings, dtype if dtype in DTYPES.values() else "bfloat16")
    return {**tensors}


def _adapted_tensors(base: Path, adapter: Path) -> dict[str, Tensor]:
    """Return the tensors of a base with an adapter applied, under the names of the base."""
    stored = stored_tensors(base)
    names = decoder_names(stored)
    plain = {name: names.get(name, name.removeprefix(DECODER)) for name in stored}
    tensors = {plain[name]: tensor for name, tensor in stored.items()}
    adapted = apply_adapter(adapter, tensors, read_json(base / "config.json"))
    own = {name: stored_name for stored_name, name in plain.items()}
    return {own.get(name, name): tensor for name, tensor in adapted.items()}


def _stored_tensors(folder: Path) -> dict[str, Stored]:
    for format in _FORMATS:
        index, single = folder / format.index, folder / format.single
        for file in (index, single):
            check_fetched(file)
        shards = _shards(index) if index.is_file() else {}
        if single.is_file() and _is_left_over(index, single, shards):
            shards = {}
        if shards:
            return _find_in_shards(folder, shards, format.list_tensors)
        if single.is_file():
            return format.list_tensors(single)
        if shard := next(folder.glob(format.shards), None):
            raise AcdcError(
                f"{index}: is missing, but there are shards such as {shard.name}; download the "
                "model again"
            )
    raise AcdcError(
        f"{folder}: no {safetensors_io.SINGLE} and no {torch_io.SINGLE}; other formats of weights "
        "are not supported"
    )


def _shards(index: Path) -> dict[str, str]:
    """Return tensor → file, from the index of a folder's shards."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise AcdcError(f"{index}: no weight_map; download the model again")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise AcdcError(
                f"{index}: tensor {name} is in {file!r}, which is no file; download the model again"
            )
    # Shards are in the folder of the index, wherever it says that they are.
    return {name: Path(file).name for name, file in weight_map.items()}


def _is_left_over(index: Path, single: Path, shards: Mapping[str, str]) -> bool:
    """Return whether an index beside a single file names shards that are gone.

    transformers leaves the index when it saves a smaller model to the same folder.

    Raises:
        AcdcError: The shards are there too.
    """
    files = set(shards.values()) - {single.name}
    if not files or files - _file_names(single.parent):
        return True
    raise AcdcError(
        f"{single.parent}: holds two sets of weights, {single.name} and the shards of "
        f"{index.name}; delete the set that is out of date"
    )


def _file_names(folder: Path) -> set[str]:
    """Return the names of the files in a folder, with which any text can be compared."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def _find_in_shards(
    folder: Path, shards: Mapping[str, str], list_tensors: Callable[[Path], dict[str, Stored]]
) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {}
    there = _file_names(folder)
    for shard in dict.fromkeys(shards.values()):
        file = folder / shard
        if shard not in there:
            example = next(name for name, where in shards.items() if where == shard)
            raise AcdcError(
                f"{file}: shard is missing (it holds {example}); download the model again"
            )
        check_fetched(file)
        for name, tensor in list_tensors(file).items():
            if name in tensors:
                raise AcdcError(
                    f"{file}: tensor {name} is also in {tensors[name].file}; download the model "
                    "again"
                )
            tensors[name] = tensor
    for name in shards:
        if name not in tensors:
            raise AcdcError(
                f"{folder / shards[name]}: tensor {name} is missing, although the index lists it; "
                "download the model again"
            )
    return tensors
