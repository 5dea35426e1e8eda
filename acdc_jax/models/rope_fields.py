"""The rotary fields of a Hugging Face `config.json`, as `ModelConfig` has them.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 writes `rope_parameters`; with
two kinds of layers, `rope_local_base_freq` or one entry of `rope_parameters` per kind.
"""

import math
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ROPE_TYPES, ModelConfig
from acdc_jax.models.config_fields import GLOBAL, LOCAL, Fields, number, truth

_SCALED = frozenset(ROPE_TYPES) - {"default"}


def read_rope(hf_config: Fields, thetas: tuple[float, float]) -> dict[str, Any]:
    """Return the rotary fields of `ModelConfig`.

    Args:
        hf_config: The parsed `config.json`.
        thetas: Default bases of the frequencies in layers without and with a window; the second is
            0 if both kinds of layers have the same frequencies.

    Raises:
        AcdcError: A field is missing, or the decoder does not implement its value.
    """
    theta, local_theta = thetas
    rope = dict(hf_config.get("rope_scaling") or hf_config.get("rope_parameters") or {})
    local: dict[str, Any] = {}
    if local_theta:
        nested = dict(hf_config.get("rope_parameters") or {})
        local = dict(nested.get(LOCAL) or {})
        rope = dict(nested.get(GLOBAL) or {}) | dict(hf_config.get("rope_scaling") or {})
        local_theta = number(
            local, "rope_theta", number(hf_config, "rope_local_base_freq", local_theta)
        )
    for parameters in (rope, local):
        factor = parameters.get("partial_rotary_factor", 1)
        if factor != 1:
            raise AcdcError(f"unsupported partial_rotary_factor = {factor!r}")
        for name, value in parameters.items():
            if isinstance(value, dict):
                raise AcdcError(f"unsupported rope_parameters.{name}")
    if local and (local.get("rope_type") or "default") != "default":
        raise AcdcError(f"unsupported rope_type = {local['rope_type']!r} in layers with a window")
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    rotary: dict[str, Any] = {
        "rope_theta": float(number(rope, "rope_theta", number(hf_config, "rope_theta", theta))),
        "local_rope_theta": float(local_theta),
        "rope_type": kind,
    }
    if kind in ("llama3", "yarn"):
        longest = number(hf_config, "max_position_embeddings")
        original = number(rope, "original_max_position_embeddings", longest)
        if not local_theta:
            original = number(hf_config, "original_max_position_embeddings", original)
        rotary["rope_original_positions"] = int(original)
        stretch = longest / max(original, 1)
    if kind == "llama3":
        rotary["rope_low_freq_factor"] = float(number(rope, "low_freq_factor"))
        rotary["rope_high_freq_factor"] = float(number(rope, "high_freq_factor"))
    if kind in _SCALED:
        factor = number(rope, "factor", stretch if kind == "yarn" else None)
        rotary["rope_factor"] = float(factor)
    if kind == "yarn":
        rotary |= _read_yarn(rope, factor)
        if local_theta and not rotary["rope_truncate"]:
            raise AcdcError("unsupported truncate = False in a model with two kinds of layers")
    return rotary


def _read_yarn(rope: Fields, factor: float) -> dict[str, Any]:
    """Return the fields that only YaRN has; the mscale fields end in the attention factor."""

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    over, under = number(rope, "mscale", 0), number(rope, "mscale_all_dim", 0)
    default = magnitude(over) / magnitude(under) if over and under else magnitude(1)
    return {
        "rope_beta_fast": float(number(rope, "beta_fast", 0) or 32),
        "rope_beta_slow": float(number(rope, "beta_slow", 0) or 1),
        "rope_truncate": truth(rope, "truncate", True),
        "rope_attention_factor": float(number(rope, "attention_factor", default)),
    }


def write_rope(config: ModelConfig, *, nested: bool) -> dict[str, Any]:
    """Return the rotary fields of `config.json`, for transformers 4 and 5.

    Args:
        config: Shape of the decoder.
        nested: Whether layers with a window have frequencies of their own.
    """
    scaling: dict[str, Any] = {"rope_type": config.rope_type}
    if config.rope_type != "default":
        scaling["factor"] = config.rope_factor
    if config.rope_type in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = config.rope_original_positions
    if config.rope_type == "llama3":
        scaling["low_freq_factor"] = config.rope_low_freq_factor
        scaling["high_freq_factor"] = config.rope_high_freq_factor
    if config.rope_type == "yarn":
        scaling["beta_fast"] = config.rope_beta_fast
        scaling["beta_slow"] = config.rope_beta_slow
        scaling["attention_factor"] = config.rope_attention_factor
        if not config.rope_truncate:
            scaling["truncate"] = False
    parameters: dict[str, Any] = scaling | {"rope_theta": config.rope_theta}
    hf_fields: dict[str, Any] = {"rope_theta": config.rope_theta}
    if config.rope_type != "default":
        hf_fields["rope_scaling"] = scaling
    if nested:
        hf_fields["rope_local_base_freq"] = config.local_rope_theta
        local = {"rope_type": "default", "rope_theta": config.local_rope_theta}
        parameters = {GLOBAL: parameters, LOCAL: local}
    return hf_fields | {"rope_parameters": parameters}
