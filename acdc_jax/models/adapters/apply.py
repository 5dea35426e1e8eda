"""Apply a LoRA adapter to the tensors of its base, each when it is read.

The weights are those with which PEFT's model computes before it is merged: W + scale·B·A, or what
the adapter holds in place of W. If the base ties its head to its embedding, and an adapter changes
either, they are two weights from then on, as in PEFT's model; `merge_and_unload` changes both.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.adapters.config import AGAIN, EMBEDDING, HEAD, AdapterConfig
from acdc_jax.models.adapters.files import Part, Parts, read_adapter
from acdc_jax.models.config_fields import Fields
from acdc_jax.models.families import ties_embeddings
from acdc_jax.models.multimodal import is_wrapper
from acdc_jax.models.stored_tensors import Computed, Stored, Tensor

_PAIRS = ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B))
_TRANSPOSED = {Part.A: Part.EMBEDDING_B, Part.B: Part.EMBEDDING_A}
_OTHER_BASE = "name the base that it was trained on"


def unties(config: AdapterConfig) -> bool:
    """Return whether an adapter unties a head that is tied to the embedding in its base."""
    if config.tied:
        return False
    if any(config.is_target(module) or config.is_replaced(module) for module in (EMBEDDING, HEAD)):
        return True
    return config.tokens_of(HEAD) not in (None, config.tokens_of(EMBEDDING))


def apply_adapter(
    folder: Path, base: Mapping[str, Tensor], base_fields: Fields
) -> dict[str, Tensor]:
    """Return the tensors of a base with an adapter applied, without reading the base's.

    Args:
        folder: Of the adapter.
        base: Name → tensor of the base; those of its decoder as in a model without a wrapper.
        base_fields: The base's `config.json`.

    Raises:
        AcdcError: The adapter does not fit the base: a tensor has no place in it or another shape
            than there, is missing, or is not finite. The message names file and tensor.
    """
    adapter = read_adapter(folder)
    config, file, parts = adapter.config, adapter.file, adapter.parts
    tensors = dict(base)
    # Wrappers say so by default, even if their decoder has a head.
    has_head = is_wrapper(base_fields) and f"{HEAD}.weight" in base
    tied_base = ties_embeddings(base_fields) and not has_head
    tied = tied_base and not unties(config)
    if tied and HEAD in parts:
        parts = _without_head(file, parts)
    if tied and EMBEDDING in parts:
        tensors.pop(f"{HEAD}.weight", None)  # a copy of the base's embedding
    if tied_base and not tied and f"{EMBEDDING}.weight" in base:
        tensors[f"{HEAD}.weight"] = _head_of_tied_base(config, parts, base)
    _check_modules(file, config, parts, tensors)
    for module, leaves in parts.items():
        _check_finite(file, leaves)
        for part in (Part.WEIGHT, Part.BIAS):
            if part in leaves:
                name = f"{module}.{part}"
                tensors[name] = _replace(tensors[name], leaves[part], module)
    for module, leaves in parts.items():
        name = f"{module}.weight"
        for a, b in _PAIRS:
            if a in leaves:
                tensors[name] = _add_product(config, tensors[name], module, a, leaves[a], leaves[b])
        if Part.B_BIAS in leaves:
            bias = f"{module}.bias"
            _check_shape(leaves[Part.B_BIAS], tensors[bias].shape, bias)
            tensors[bias] = _add_bias(tensors[bias], leaves[Part.B_BIAS], config.scale_of(module))
        if Part.TOKENS in leaves:
            rows = config.tokens_of(module)
            tensors[name] = _replace_rows(tensors[name], leaves[Part.TOKENS], rows, config.file)
    embedding, head = (tensors.get(f"{module}.weight") for module in (EMBEDDING, HEAD))
    if embedding and head and embedding.shape[0] != head.shape[0]:
        raise AcdcError(
            f"{file}: with this adapter {EMBEDDING} has {embedding.shape[0]} rows, but {HEAD} has "
            f"{head.shape[0]}; save it with save_embedding_layers=True"
        )
    return tensors


def _without_head(file: Path, parts: Parts) -> Parts:
    """Return the parts without those of a head that is tied to the embedding.

    Raises:
        AcdcError: The two are not adapted alike.
    """
    embedding = parts.get(EMBEDDING, {})
    for part, tensor in parts[HEAD].items():
        twin, values = embedding.get(_TRANSPOSED.get(part, part)), tensor.read()
        if part in _TRANSPOSED:
            values = values.T
        if twin is None or not np.array_equal(twin.read(), values):
            raise AcdcError(
                f"{file}: tensor {tensor.name} is not as that of {EMBEDDING}, to which the base "
                "ties it; merge the adapter with PEFT's merge_and_unload"
            )
    return {module: leaves for module, leaves in parts.items() if module != HEAD}


def _head_of_tied_base(config: AdapterConfig, parts: Parts, base: Mapping[str, Tensor]) -> Tensor:
    """Return the head, before it is adapted, of a base that ties it to the embedding."""
    resized = parts.get(EMBEDDING, {}).get(Part.WEIGHT)
    if resized is not None and not config.is_replaced(EMBEDDING):
        return resized
    return base[f"{EMBEDDING}.weight"]


def _check_modules(
    file: Path, config: AdapterConfig, parts: Parts, tensors: Mapping[str, Tensor]
) -> None:
    """Raise AcdcError if tensors and configuration of an adapter do not name the same modules."""
    for module, leaves in parts.items():
        for part, tensor in leaves.items():
            leaf = "bias" if part in (Part.BIAS, Part.B_BIAS) else "weight"
            if f"{module}.{leaf}" not in tensors:
                raise AcdcError(
                    f"{file}: tensor {tensor.name}: the base has no {module}.{leaf}; {_OTHER_BASE}"
                )
        for a, b in _PAIRS:
            if (a in leaves) != (b in leaves):
                have, lack = (a, b) if a in leaves else (b, a)
                raise AcdcError(
                    f"{file}: has {leaves[have].name}, but no {lack} of that module; {AGAIN}"
                )
            if a in leaves and not config.is_target(module):
                raise AcdcError(
                    f"{file}: tensor {leaves[a].name} is of a module that {config.file.name} does "
                    "not have as a target; download the adapter again"
                )
        if Part.B_BIAS in leaves and Part.B not in leaves:
            raise AcdcError(
                f"{file}: has {leaves[Part.B_BIAS].name}, but no {Part.B} of that module; {AGAIN}"
            )
        if Part.TOKENS in leaves and config.tokens_of(module) is None:
            raise AcdcError(
                f"{config.file}: trainable_token_indices lacks {module}, of which {file.name} has "
                f"{leaves[Part.TOKENS].name}; {AGAIN}"
            )
    for name, weight in tensors.items():
        module, _, leaf = name.rpartition(".")
        leaves = parts.get(module, {})
        pair = leaf == "weight" and len(weight.shape) == 2 and config.is_target(module)
        if pair and not any(a in leaves for a, _ in _PAIRS):
            raise AcdcError(
                f"{file}: has no lora_A for {module}, which {config.file.name} targets; "
                f"{_OTHER_BASE}"
            )
        if config.is_replaced(module) and leaf not in leaves:
            raise AcdcError(
                f"{file}: has no {name}, although modules_to_save of {config.file.name} names it; "
                f"{AGAIN}"
            )
        if leaf == "weight" and config.tokens_of(module) is not None and Part.TOKENS not in leaves:
            raise AcdcError(f"{file}: has no {Part.TOKENS} of {module}; {AGAIN}")


def _check_finite(file: Path, parts: Mapping[Part, Stored]) -> None:
    """Raise AcdcError if a small tensor is not finite; the loader checks whole weights."""
    for part, tensor in parts.items():
        if part is not Part.WEIGHT and not np.isfinite(_float32(tensor)).all():
            raise AcdcError(f"{file}: tensor {tensor.name} has values that are not finite; {AGAIN}")


def _check_shape(tensor: Stored, shape: tuple[int, ...], what: str) -> None:
    if tensor.shape != shape:
        raise AcdcError(
            f"{tensor.file}: tensor {tensor.name} has shape {tensor.shape}, but {what} requires "
            f"{shape}; {_OTHER_BASE}"
        )


def _float32(tensor: Tensor) -> np.ndarray:
    return tensor.read().astype(np.float32)


def _replace(base: Tensor, tensor: Stored, module: str) -> Tensor:
    """Return what stands for a tensor of the base, in the dtype of that."""
    rows = tensor.shape[:1] if module in (EMBEDDING, HEAD) else base.shape[:1]
    _check_shape(tensor, rows + base.shape[1:], f"{base.name} of the base")
    return Computed(tensor.file, tensor.name, base.dtype, tensor.shape, tensor.read)


def _add_product(
    config: AdapterConfig, base: Tensor, module: str, part: Part, a: Stored, b: Stored
) -> Tensor:
    """Return W + scale·B·A of a module, or of an embedding, W + scale·(B·A)ᵀ."""
    embedding = part is Part.EMBEDDING_A
    if len(base.shape) != 2:
        raise AcdcError(f"{a.file}: tensor {a.name} is of {base.name}, which is no matrix; {AGAIN}")
    rank, scale = config.rank_of(module), config.scale_of(module)
    if len(a.shape) == 2 and a.shape[0] != rank:
        raise AcdcError(
            f"{a.file}: tensor {a.name} has rank {a.shape[0]}, but {config.file.name} says {rank}; "
            f"{AGAIN}"
        )
    out, inner = base.shape[::-1] if embedding else base.shape
    what = f"{base.name} of the base, {base.shape},"
    _check_shape(a, (rank, inner), what)
    _check_shape(b, (out, rank), what)

    def read() -> np.ndarray:
        product: np.ndarray = _float32(b) @ _float32(a)
        product *= np.float32(scale)
        product += (base.read().T if embedding else base.read()).astype(np.float32)
        return product.T if embedding else product

    return Computed(a.file, base.name, base.dtype, base.shape, read)


def _add_bias(base: Tensor, bias: Stored, scale: float) -> Tensor:
    """Return a bias with that of a module's matrix B added."""

    def read() -> np.ndarray:
        return _float32(base) + np.float32(scale) * _float32(bias)

    return Computed(bias.file, base.name, base.dtype, base.shape, read)


def _replace_rows(base: Tensor, rows: Stored, tokens: Sequence[int] | None, file: Path) -> Tensor:
    """Return an embedding or a head with some rows replaced."""
    indices = list(tokens or ())
    _check_shape(rows, (len(indices), base.shape[1]), f"trainable_token_indices of {file.name}")
    if outside := [token for token in indices if not 0 <= token < base.shape[0]]:
        raise AcdcError(
            f"{file}: trainable_token_indices has {outside[0]}, but {base.name} has "
            f"{base.shape[0]} rows; {_OTHER_BASE}"
        )

    def read() -> np.ndarray:
        values = _float32(base)
        values[indices] = _float32(rows)
        return values

    return Computed(rows.file, base.name, base.dtype, base.shape, read)
