"""Find the tensors of a folder: safetensors or PyTorch's files, one or several with an index."""

from collections.abc import Callable
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.models import safetensors_io, torch_io
from acdc_jax.models.safetensors_io import read_json
from acdc_jax.models.stored_tensors import Stored

# Index, single file, and what reads a file; the first format that a folder has counts.
_FORMATS: tuple[tuple[str, str, Callable[[Path], dict[str, Stored]]], ...] = (
    (safetensors_io.INDEX, safetensors_io.SINGLE, safetensors_io.list_tensors),
    (torch_io.INDEX, torch_io.SINGLE, torch_io.list_tensors),
)


def find_tensors(folder: Path) -> dict[str, Stored]:
    """Return every tensor in a folder's weight files, by name, without reading any.

    Raises:
        AcdcError: There are no weight files, a file is truncated, a shard is missing, or a tensor
            is missing or in two files. The message names file and tensor.
    """
    for index, single, list_tensors in _FORMATS:
        if (folder / index).is_file():
            return _find_in_shards(folder / index, list_tensors)
        if (folder / single).is_file():
            return list_tensors(folder / single)
    raise AcdcError(
        f"{folder}: no {safetensors_io.SINGLE} and no {torch_io.SINGLE}; other formats of weights "
        "are not supported"
    )


def _find_in_shards(
    index: Path, list_tensors: Callable[[Path], dict[str, Stored]]
) -> dict[str, Stored]:
    folder, weight_map = index.parent, read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise AcdcError(f"{index}: no weight_map")
    tensors: dict[str, Stored] = {}
    for shard in dict.fromkeys(weight_map.values()):
        file = folder / Path(str(shard)).name  # shards are in the folder of the index
        if not file.is_file():
            tensor = next(name for name, where in weight_map.items() if where == shard)
            raise AcdcError(
                f"{file}: shard is missing (it holds {tensor}); download the model again"
            )
        for name, tensor in list_tensors(file).items():
            if name in tensors:
                raise AcdcError(f"{file}: tensor {name} is also in {tensors[name].file}")
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            raise AcdcError(f"{folder / str(shard)}: tensor {name} is missing")
    return tensors
