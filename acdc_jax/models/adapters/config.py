"""Read the `adapter_config.json` of a LoRA adapter: what it adapts, and how strongly.

Source: PEFT 0.21, `LoraConfig`, `check_target_module_exists` and `get_pattern_key`.
"""

import functools
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from acdc_jax.errors import AcdcError
from acdc_jax.models import hub
from acdc_jax.models.json_files import read_json

FILE = hub.ADAPTER_CONFIG
DECODER = "model."
EMBEDDING, HEAD = f"{DECODER}embed_tokens", "lm_head"
AGAIN = "download the adapter again"
_MERGE = "merge it into its base with PEFT's merge_and_unload, and name the merged folder"
# Initialisations that leave the weights of the base as they are. Others change the base as well,
# which the adapter's files do not hold.
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")
_READ = {
    "alpha_pattern",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "trainable_token_indices",
    "use_rslora",
}
# Fields that do not change what a trained adapter of a linear or embedding layer computes.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "bias",  # the tensors say which biases were trained
    "corda_config",  # of an initialisation, as the next ones
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "fan_in_fan_out",  # PEFT resets it for linear layers
    "inference_mode",
    "lora_bias",  # the tensors say it
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",  # of the backward pass
}
_ALL_LINEAR = r"(?!.*(lm_head|embed_tokens|embedding)$).*"
# Limits of one regular expression, which may be written to take for ever.
_SECONDS, _REPEATS = 1.0, 1000


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter changes. Modules are named as in a model without a wrapper: "model.norm".

    Attributes:
        file: Path of the file, for messages.
        base: Name of the base that the adapter was trained on; "" if it is not recorded.
        rank: Rank of its matrices.
        alpha: Scale of their product, times the rank.
        ranks: Regular expression → rank of the modules that it matches, if it is another one.
        alphas: The same for alpha.
        sqrt_rank: Whether the scale is alpha / √rank, not alpha / rank.
        targets: Names of the modules that have matrices, or one regular expression.
        excluded: Names, or one regular expression, of modules among them that have none.
        layers: Layers with matrices; None: all.
        layers_names: What stands before the number of a layer; (): anything.
        replaced: Ends of the names of the modules that the adapter replaces.
        tokens: End of a module's name → tokens whose rows the adapter replaces.
        tied: Whether the head stays tied to the embedding when that is adapted.
        wrapped: Whether names in the file are those of modules in a multimodal model.
    """

    file: Path
    base: str
    rank: int
    alpha: float
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]
    sqrt_rank: bool
    targets: Sequence[str] | str
    excluded: Sequence[str] | str
    layers: Sequence[int] | None
    layers_names: Sequence[str]
    replaced: Sequence[str]
    tokens: Mapping[str, Sequence[int]]
    tied: bool
    wrapped: bool = False

    def is_target(self, module: str) -> bool:
        """Return whether a module has LoRA matrices."""
        module = self._own_name(module)
        if _is_among(self.excluded, module, self.file):
            return False
        if any(f".{name}." in f".{module}." for name in self.replaced):
            return False
        if not _is_among(self.targets, module, self.file):
            return False
        if isinstance(self.targets, str) or self.layers is None:
            return True
        names = "|".join(f"(?:{name})" for name in self.layers_names) or r"[^.]*"
        match = _match(rf"(?:|.*?\.)(?:{names})\.(?P<layer>\d+)\..*", module, self.file)
        return match is not None and int(match["layer"]) in self.layers

    def is_replaced(self, module: str) -> bool:
        """Return whether the adapter replaces a module, or one that it is a part of."""
        parts = self._own_name(module).split(".")
        owners = (".".join(parts[: i + 1]) for i in range(len(parts)))
        return any(owner.endswith(name) for owner in owners for name in self.replaced)

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's matrices."""
        rank = _look_up(self.ranks, self._own_name(module), self.rank, self.file)
        return _positive(rank, "rank_pattern", self.file)

    def scale_of(self, module: str) -> float:
        """Return the factor of the product of a module's matrices."""
        alpha = _look_up(self.alphas, self._own_name(module), self.alpha, self.file)
        alpha = _finite(alpha, "alpha_pattern", self.file)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.sqrt_rank else rank)

    def tokens_of(self, module: str) -> Sequence[int] | None:
        """Return the tokens whose rows the adapter replaces in a module; None if it has none."""
        rows = (tokens for name, tokens in self.tokens.items() if module.endswith(name))
        return next(rows, None)

    def _own_name(self, module: str) -> str:
        """Return the name that a module has in PEFT's model, which may be multimodal."""
        if not self.wrapped or module == HEAD:
            return module
        if module.startswith(DECODER):
            return f"{DECODER}language_{module}"  # model.language_model.…
        return f"{DECODER}{module}"


def recorded_base(folder: Path) -> str:
    """Return the name of the base in an adapter's configuration; "" if there is none."""
    base = read_json(folder / FILE).get("base_model_name_or_path")
    return base if isinstance(base, str) else ""


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return the configuration of an adapter.

    Raises:
        AcdcError: It is not a LoRA adapter, or one that changes the model in a way that is not
            supported; names the field.
    """
    file = folder / FILE
    fields = read_json(file)
    kind = fields.get("peft_type")
    if kind is None:
        raise AcdcError(
            f"{file}: has no peft_type; only adapters in PEFT's format are read; merge it into its "
            "base with the tool that made it, and name the merged folder"
        )
    if kind in _PROMPTS:
        raise AcdcError(f"{file}: peft_type {kind!r} changes prompts, not weights; it cannot merge")
    if kind != "LORA":
        raise AcdcError(f"{file}: peft_type {kind!r} is not supported, only 'LORA' is; {_MERGE}")
    if fields.get("init_lora_weights", True) not in _INITIALISATIONS:
        raise AcdcError(
            f"{file}: init_lora_weights = {fields['init_lora_weights']!r} has changed the base as "
            "well; save the adapter with path_initial_model_for_weight_conversion, or " + _MERGE
        )
    for name in sorted(fields.keys() - _READ - _WITHOUT_EFFECT):
        if fields[name]:
            raise AcdcError(f"{file}: {name} = {fields[name]!r} is not supported; {_MERGE}")
    targets = _strings(fields, "target_modules", file)
    layers = fields.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers or []
    tokens = fields.get("trainable_token_indices") or {}
    if isinstance(tokens, list):
        tokens = {EMBEDDING: tokens}
    return AdapterConfig(
        file=file,
        base=str(fields.get("base_model_name_or_path") or ""),
        rank=_positive(fields.get("r", 8), "r", file),
        alpha=_finite(fields.get("lora_alpha", 8), "lora_alpha", file),
        ranks=_dictionary(fields.get("rank_pattern") or {}, "rank_pattern", file),
        alphas=_dictionary(fields.get("alpha_pattern") or {}, "alpha_pattern", file),
        sqrt_rank=bool(fields.get("use_rslora")),
        targets=_ALL_LINEAR if targets == "all-linear" else targets,
        excluded=_strings(fields, "exclude_modules", file),
        layers=_list_of(int, layers, "layers_to_transform", file) or None,
        layers_names=_names(fields, "layers_pattern", file),
        replaced=_names(fields, "modules_to_save", file),
        tokens={
            module: _list_of(int, rows, "trainable_token_indices", file)
            for module, rows in _dictionary(tokens, "trainable_token_indices", file).items()
        },
        tied=bool(fields.get("ensure_weight_tying")),
    )


def _strings(fields: Mapping[str, Any], name: str, file: Path) -> Sequence[str] | str:
    """Return a field that is a list of strings, or one regular expression; [] if it is missing."""
    value = fields.get(name) or []
    return value if isinstance(value, str) else _list_of(str, value, name, file)


def _names(fields: Mapping[str, Any], name: str, file: Path) -> Sequence[str]:
    """Return a field that is a list of names, or one name."""
    value = _strings(fields, name, file)
    return [value] if isinstance(value, str) else value


def _list_of(kind: type, value: Any, name: str, file: Path) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong_type(value, name, file)
    for entry in value:
        if type(entry) is not kind:
            raise _wrong_type(entry, name, file)
    return value


def _dictionary(value: Any, name: str, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong_type(value, name, file)
    return value


def _wrong_type(value: Any, name: str, file: Path) -> AcdcError:
    return AcdcError(
        f"{file}: {name} has {str(value)[:40]!r}, a type that PEFT does not write; save it again"
    )


def _positive(value: Any, name: str, file: Path) -> int:
    if type(value) is not int or value < 1:
        raise AcdcError(f"{file}: {name} = {value!r} must be a positive integer")
    return value


def _finite(value: Any, name: str, file: Path) -> float:
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise AcdcError(f"{file}: {name} = {value!r} must be a finite number")
    return float(value)


def _is_among(names: Sequence[str] | str, module: str, file: Path) -> bool:
    """Return whether names have that of a module or its end, or a regular expression matches it."""
    if isinstance(names, str):
        return bool(names) and _match(names, module, file) is not None
    return any(f".{module}".endswith(f".{name}") for name in names)


def _look_up(values: Mapping[str, Any], module: str, default: Any, file: Path) -> Any:
    """Return the value of the first regular expression that matches the end of a module's name."""
    for pattern, value in values.items():
        if _match(rf"(?:.*\.)?(?:{pattern})", module, file) is not None:
            return value
    return default


def _match(pattern: str, module: str, file: Path) -> Any:
    """Return the match of a regular expression from a file with the whole name, or None.

    Raises:
        AcdcError: It is not one of Python's, or would take too much time or memory.
    """
    try:
        return _compile(pattern).fullmatch(module, timeout=_SECONDS)
    except TimeoutError:
        problem = "takes too long to match"
    except (re.error, regex.error, ArithmeticError, MemoryError, RecursionError) as error:
        problem = f"is not a regular expression ({error})"
    raise AcdcError(f"{file}: {pattern[:200]!r} {problem}; write names in full instead")


@functools.lru_cache(4096)
def _compile(pattern: str) -> Any:
    """Return the expression for `regex`, which can stop after a time, and has more syntax."""
    re.compile(pattern)
    counts = re.findall(r"\{([^}]*)", pattern)
    if not all(re.fullmatch(r"\d*,?\d*", count) for count in counts):
        raise re.error("braces are for numbers")
    if math.prod(int(n) for count in counts for n in re.findall(r"\d+", count)) > _REPEATS:
        raise re.error("it repeats too much")
    return regex.compile(pattern)
