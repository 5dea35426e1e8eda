"""List the tensors of a LoRA adapter by the module and the part of it that each belongs to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models import safetensors_io, torch_io
from acdc_jax.models.adapters.config import AGAIN, DECODER, HEAD, AdapterConfig, read_adapter_config
from acdc_jax.models.fetched_files import check_fetched
from acdc_jax.models.hub import ADAPTER_WEIGHTS
from acdc_jax.models.stored_tensors import Stored

_PREFIX = "base_model.model."


class Part(StrEnum):
    """What a tensor of an adapter is to its module."""

    A = "lora_A.weight"  # [rank, in]
    B = "lora_B.weight"  # [out, rank]
    B_BIAS = "lora_B.bias"  # [out]
    EMBEDDING_A = "lora_embedding_A"  # [rank, rows]
    EMBEDDING_B = "lora_embedding_B"  # [hidden, rank]
    TOKENS = "trainable_tokens_delta"  # [tokens, hidden]: rows, not differences
    WEIGHT = "weight"  # in place of the base's
    BIAS = "bias"


Parts = Mapping[str, Mapping[Part, Stored]]
"""Module → part → tensor."""

_ADAPTER = r"(?:\.(?P<adapter>[^.]+))?"  # its name, which old versions of PEFT left in
_FORMS = (
    re.compile(rf"(?P<module>.+)\.(?P<part>lora_[AB]){_ADAPTER}(?P<leaf>\.weight|\.bias)"),
    re.compile(rf"(?P<module>.+)\.(?P<part>lora_embedding_[AB]){_ADAPTER}"),
    re.compile(rf"(?P<module>.+)\.token_adapter\.(?P<part>trainable_tokens_delta){_ADAPTER}"),
    # What an adapted module was before, resized and not as in the base.
    re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.base_layer\.(?P<part>weight|bias)"),
    re.compile(rf"(?P<module>.+)\.modules_to_save{_ADAPTER}\.(?P<part>weight|bias)"),
    re.compile(r"(?P<module>.+)\.(?P<part>weight|bias)"),
)
# transformers has named the decoder in a multimodal model in two ways.
_WRAPPED = re.compile(r"^(model\.language_model|language_model\.model)\.")
_SUPERSEDED = re.compile(r".+\.original_module\..+")  # by modules_to_save


@dataclass(frozen=True)
class Adapter:
    """The files of an adapter.

    Attributes:
        config: What its configuration says.
        file: Path of the file of its tensors.
        parts: Its tensors; modules are named as in a model without a wrapper.
    """

    config: AdapterConfig
    file: Path
    parts: Parts


def read_adapter(folder: Path) -> Adapter:
    """Return the files of an adapter, without reading its tensors.

    Raises:
        AcdcError: It is damaged, or not supported. The message names file and field or tensor.
    """
    config = read_adapter_config(folder)
    file, parts = _list_parts(folder)
    wrapped = any(_WRAPPED.match(module) for module in parts)
    if wrapped:
        parts = {_without_wrapper(module): leaves for module, leaves in parts.items()}
    return Adapter(replace(config, wrapped=wrapped), file, parts)


def _without_wrapper(module: str) -> str:
    """Return the name of a multimodal model's module as `find_tensors` has it."""
    if _WRAPPED.match(module):
        return _WRAPPED.sub(DECODER, module)
    return HEAD if module.endswith(f".{HEAD}") else module.removeprefix(DECODER)


def _list_parts(folder: Path) -> tuple[Path, Parts]:
    """Return the file of an adapter's tensors, and its tensors, under their own names.

    Raises:
        AcdcError: There is no such file, or it is damaged; or a tensor is not one of a LoRA
            adapter, or there are several adapters. The message names file and tensor.

    Source: PEFT, `get_peft_model_state_dict`.
    """
    for name in ADAPTER_WEIGHTS:
        check_fetched(folder / name)
    file = next((path for name in ADAPTER_WEIGHTS if (path := folder / name).is_file()), None)
    if file is None:
        raise AcdcError(f"{folder}: no {' and no '.join(ADAPTER_WEIGHTS)}; {AGAIN}")
    reader = torch_io if file.suffix == ".bin" else safetensors_io
    parts: dict[str, dict[Part, Stored]] = {}
    adapters = set()
    for name, tensor in reader.list_tensors(file).items():
        path = name.removeprefix(_PREFIX)
        if _SUPERSEDED.fullmatch(path):
            continue
        match = next((match for form in _FORMS if (match := form.fullmatch(path))), None)
        groups = match.groupdict() if match and path != name else {}
        kind = f"{groups.get('part')}{groups.get('leaf') or ''}"
        if kind not in set(Part) or "lora_" in groups["module"]:
            raise AcdcError(
                f"{file}: tensor {name} is not one of a LoRA adapter in PEFT's format; save it "
                "with PEFT's save_pretrained"
            )
        part, module = Part(kind), parts.setdefault(groups["module"], {})
        # PEFT writes a replaced embedding twice if it has more rows than the base's.
        if part in module and not np.array_equal(module[part].read(), tensor.read()):
            raise AcdcError(f"{file}: tensor {name} differs from {module[part].name}; {AGAIN}")
        module[part] = tensor
        if groups.get("adapter"):
            adapters.add(groups["adapter"])
    if len(adapters) > 1:
        raise AcdcError(f"{file}: holds several adapters ({', '.join(sorted(adapters))}); save one")
    if not parts:
        raise AcdcError(f"{file}: holds no tensors; save the adapter again")
    return file, parts
