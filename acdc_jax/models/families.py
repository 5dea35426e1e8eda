"""Model families: conversion between an architecture's `config.json` and `ModelConfig`.

All differences between families are in `FAMILIES` and in the fields of `ModelConfig`. A field that
would change the computation in a way that the decoder does not implement is an error that names it.
Fields that transformers does not read in a family are ignored. So is `auto_map`, which names custom
code, where `model_type` names a family: transformers, too, then runs its own code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.config_fields import GLOBAL, LOCAL, Fields, integer, number, truth
from acdc_jax.models.multimodal import decoder_fields
from acdc_jax.models.quantised import check_quantisation
from acdc_jax.models.rope_fields import read_rope, write_rope

# Fields that no family's decoder implements, and the values that mean "not used".
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "is_causal": (None, True),
    "is_encoder_decoder": (None, False),
    "partial_rotary_factor": (None, 1),  # transformers heeds it with some `rope_type`s only
}
_MOST_LAYERS = 10_000
_DTYPES = {"auto": "float32", "float": "float32", "half": "float16"}

_STRUCTURED: dict[str, type] = {
    "architectures": list,
    "layer_types": list,
    "rope_parameters": dict,
    "rope_scaling": dict,
}


def _no_layer(hf_config: Fields, layer: int) -> bool:
    return False


def _every_layer(hf_config: Fields, layer: int) -> bool:
    return hf_config.get("sliding_window", 1) is not None


def _later_layers(hf_config: Fields, layer: int) -> bool:
    return truth(hf_config, "use_sliding_window") and layer >= number(
        hf_config, "max_window_layers", 28
    )


def _all_but_every(period: int) -> Callable[[Fields, int], bool]:
    def slides(hf_config: Fields, layer: int) -> bool:
        return (layer + 1) % (integer(hf_config, "sliding_window_pattern", period) or period) != 0

    return slides


@dataclass(frozen=True)
class Family:
    """One architecture: what it fixes, what it reads, and its defaults.

    Attributes:
        model_type: Hugging Face's short name.
        slides: (fields, layer) → whether the layer has a window; used without `layer_types`.
        fixed: Fields of `ModelConfig` that the architecture fixes.
        optional: Fields of `config.json` that it reads besides the common ones, with defaults.
        lacking: Fields that transformers reads and our decoder does not implement.
        head_dim: Default head dimension; 0: hidden size divided by the number of heads.
        tied: Default of `tie_word_embeddings`.
        rope_thetas: Default bases of the frequencies in layers without and with a window; the
            second is 0 if both kinds of layers have the same frequencies.
    """

    model_type: str
    slides: Callable[[Fields, int], bool] = _no_layer
    fixed: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    head_dim: int = 0
    tied: bool = False
    rope_thetas: tuple[float, float] = (10_000.0, 0.0)


_SLIDING = {"sliding_window": 4096}
_BIASED = {"attention_bias": False}
_SWITCHED = _SLIDING | {"use_sliding_window": False}
_GEMMA = {"centred_norms": True, "post_norms": True, "scale_embedding": True}
_SCALED = {"query_pre_attn_scalar": 256, "final_logit_softcapping": None} | _SLIDING | _BIASED
_BIDIRECTIONAL = ("use_bidirectional_attention",)

FAMILIES = {
    "LlamaForCausalLM": Family("llama", optional=_BIASED, lacking=("mlp_bias",)),
    "MistralForCausalLM": Family("mistral", _every_layer, optional=_SLIDING),
    "Qwen2ForCausalLM": Family("qwen2", _later_layers, {"qkv_bias": True}, _SWITCHED),
    "Qwen3ForCausalLM": Family(
        "qwen3", _later_layers, {"qk_norm": True}, _SWITCHED | _BIASED, head_dim=128
    ),
    "Gemma2ForCausalLM": Family(
        "gemma2",
        _all_but_every(2),
        _GEMMA,
        _SCALED | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        _BIDIRECTIONAL,
        head_dim=256,
        tied=True,
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3_text",
        _all_but_every(6),
        _GEMMA | {"qk_norm": True},
        _SCALED,
        _BIDIRECTIONAL,
        head_dim=256,
        tied=True,
        rope_thetas=(1_000_000.0, 10_000.0),
    ),
}


def from_hf(hf_config: Fields, where: str) -> ModelConfig:
    """Return the configuration that a Hugging Face `config.json` describes.

    Args:
        hf_config: The parsed file, as transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`)
            or 5 (`rope_parameters`, `dtype`) writes it.
        where: Name of the file, for messages.

    Returns:
        Of a multimodal model, the configuration of its text decoder.

    Raises:
        AcdcError: The decoder does not implement the architecture or a field, which is named.
    """
    try:
        check_quantisation(hf_config.get("quantization_config"))
        return _read(decoder_fields(hf_config))
    except (AcdcError, ValueError) as error:
        raise AcdcError(f"{where}: {error}") from None


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a `config.json` that transformers 4 and 5 both read.

    Raises:
        AcdcError: The family's `config.json` cannot express a field of the configuration.
    """
    family = _family(config.architecture)
    window = max(config.windows, default=0)
    local = [bool(config.window(layer)) for layer in range(config.num_layers)]
    gemma = family.fixed.get("scale_embedding", False)
    hf_fields: dict[str, Any] = {
        "architectures": [config.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_activation" if gemma else "hidden_act": config.activation,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "dtype": config.dtype,
        "torch_dtype": config.dtype,
    }
    hf_fields |= write_rope(config, nested=bool(family.rope_thetas[1]))
    optional = {
        "attention_bias": config.o_bias,
        "sliding_window": window or None,
        "use_sliding_window": bool(window),
        "query_pre_attn_scalar": int(config.query_scale),  # transformers requires an int
        "attn_logit_softcapping": config.attention_softcap or None,
        "final_logit_softcapping": config.logit_softcap or None,
    }
    hf_fields |= {name: optional[name] for name in family.optional}
    if family.slides not in (_no_layer, _every_layer):
        hf_fields["layer_types"] = [LOCAL if slides else GLOBAL for slides in local]
    if family.slides is _later_layers:
        hf_fields["max_window_layers"] = local.count(False)  # what transformers before 4.53 reads
    read_back = _read(hf_fields)
    for field_ in fields(ModelConfig):
        value = getattr(config, field_.name)
        if getattr(read_back, field_.name) != value:
            raise AcdcError(f"{config.architecture} cannot have {field_.name} = {value!r}")
    return hf_fields


def ties_embeddings(hf_config: Fields) -> bool:
    """Return whether a `config.json` ties the output head to the embedding."""
    fields = decoder_fields(hf_config)
    kinds = {family.model_type: family.tied for family in FAMILIES.values()}
    default = kinds.get(str(fields.get("model_type")), False)
    return truth(fields, "tie_word_embeddings", default)


def _family(architecture: str) -> Family:
    if architecture not in FAMILIES:
        raise AcdcError(
            f"unsupported architecture {architecture!r}; supported: {', '.join(FAMILIES)}"
        )
    return FAMILIES[architecture]


def _read(hf_config: Fields) -> ModelConfig:
    """Run `from_hf`, with messages that lack the name of the file."""
    for name, structure in _STRUCTURED.items():
        if not isinstance(hf_config.get(name), (structure, type(None))):
            raise AcdcError(f"field {name} = {hf_config[name]!r} must be a {structure.__name__}")
    kinds = {family.model_type: name for name, family in FAMILIES.items()}
    kind = hf_config.get("model_type")
    architecture = str((hf_config.get("architectures") or [kinds.get(str(kind), kind)])[0])
    family = _family(architecture)
    if kind not in (None, family.model_type):
        raise AcdcError(f"model_type = {kind!r} does not go with {architecture}")
    if kind is None and hf_config.get("auto_map"):
        raise AcdcError(
            "auto_map names custom code, which is never executed; without it, model_type must be "
            f"{family.model_type!r}"
        )
    for name, neutral in (_NEUTRAL | dict.fromkeys(family.lacking, (None, False))).items():
        if hf_config.get(name) not in neutral:
            raise AcdcError(f"unsupported {name} = {hf_config[name]!r} in {architecture}")

    layers = integer(hf_config, "num_hidden_layers")
    if layers > _MOST_LAYERS:  # before anything is made for each of them
        raise AcdcError(f"field num_hidden_layers = {layers} is more than {_MOST_LAYERS}")
    hidden, heads = integer(hf_config, "hidden_size"), integer(hf_config, "num_attention_heads")
    optional = {name: hf_config.get(name, default) for name, default in family.optional.items()}
    biased = truth(optional, "attention_bias")
    return ModelConfig(
        architecture=architecture,
        vocab_size=integer(hf_config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=integer(hf_config, "intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=integer(hf_config, "num_key_value_heads", heads),
        head_dim=integer(hf_config, "head_dim", family.head_dim or hidden // max(heads, 1)),
        windows=_windows(hf_config, family, layers, optional),
        rms_norm_eps=float(number(hf_config, "rms_norm_eps", 1e-6)),
        activation=_activation(hf_config, family),
        query_scale=float(number(optional, "query_pre_attn_scalar", 0)),
        attention_softcap=float(number(optional, "attn_logit_softcapping", 0)),
        logit_softcap=float(number(optional, "final_logit_softcapping", 0)),
        tie_embeddings=truth(hf_config, "tie_word_embeddings", family.tied),
        max_positions=integer(hf_config, "max_position_embeddings"),
        dtype=_dtype(hf_config),
        **(
            {"qkv_bias": biased, "o_bias": biased}
            | read_rope(hf_config, family.rope_thetas)
            | dict(family.fixed)
        ),
    )


def _dtype(hf_config: Fields) -> str:
    name = str(hf_config.get("dtype") or hf_config.get("torch_dtype") or "auto")
    name = name.removeprefix("torch.")
    return _DTYPES.get(name, name)


def _activation(hf_config: Fields, family: Family) -> str:
    if family.fixed.get("scale_embedding"):  # Gemma: old files have a wrong hidden_act, too
        return str(hf_config.get("hidden_activation") or "gelu_pytorch_tanh")
    return str(hf_config.get("hidden_act") or "silu")


def _windows(hf_config: Fields, family: Family, layers: int, optional: Fields) -> tuple[int, ...]:
    """Return the window of every layer; () if no layer has one."""
    if "sliding_window" not in optional:
        # transformers' cache heeds the field, its forward pass does not.
        longest = number(hf_config, "max_position_embeddings")
        if number(hf_config, "sliding_window", longest) < longest:
            raise AcdcError(
                f"sliding_window = {hf_config['sliding_window']}, but the layers of "
                f"{family.model_type} have no window; set it to null"
            )
    local = [family.slides(hf_config, layer) for layer in range(layers)]
    layer_types = hf_config.get("layer_types")
    if layer_types is not None:
        if len(layer_types) != layers:
            raise AcdcError(f"layer_types has {len(layer_types)} entries for {layers} layers")
        free = family.slides not in (_no_layer, _every_layer) and truth(
            optional, "use_sliding_window", True
        )
        for kind, slides in zip(layer_types, local, strict=True):
            if kind not in (LOCAL, GLOBAL) or (not free and slides != (kind == LOCAL)):
                raise AcdcError(f"unsupported layer_types entry {kind!r} in {family.model_type}")
        local = [kind == LOCAL for kind in layer_types]
    if not any(local):
        return ()
    window = integer(optional, "sliding_window")
    if window < 1:
        raise AcdcError(f"sliding_window = {window} must be positive")
    return tuple(window if slides else 0 for slides in local)
