"""What a decoder looks like, read from and written to a Hugging Face `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acdc_jax.errors import AcdcError

DTYPES = ("float32", "bfloat16", "float16")
_MODEL_TYPES = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}

# Fields that change what the decoder computes, and the values that mean "not used".
_UNUSED: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu"),
    "use_sliding_window": (None, False),
    "rope_scaling": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "pretraining_tp": (None, 0, 1),
    "quantization_config": (None,),
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder. Hashable, so that it can be a static argument of a jitted function.

    Attributes:
        architecture: "Qwen2ForCausalLM" or "LlamaForCausalLM".
        vocab_size: Rows of the embedding, padding rows included.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layer.
        num_layers: Number of decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides `num_heads`.
        head_dim: Width of one head; even.
        rope_theta: Base of the rotary frequencies.
        rms_norm_eps: Added to the mean square in every norm.
        tie_embeddings: Whether the output head is the embedding.
        qkv_bias: Whether the query, key and value projections have a bias.
        max_positions: Longest sequence, prompt and response together, in tokens.
        dtype: Dtype in which the checkpoint stores the weights, one of `DTYPES`.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = False
    qkv_bias: bool = False
    max_positions: int = 2048
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuses shapes that no decoder can have."""
        if self.architecture not in _MODEL_TYPES:
            raise AcdcError(
                f"unsupported architecture {self.architecture!r}; supported: "
                + ", ".join(_MODEL_TYPES)
            )
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "max_positions",
        ):
            if getattr(self, name) < 1:
                raise AcdcError(f"{name} must be positive, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise AcdcError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise AcdcError(f"head_dim {self.head_dim} is odd; rotary positions need pairs")
        if self.qkv_bias != (self.architecture == "Qwen2ForCausalLM"):
            raise AcdcError(f"qkv_bias = {self.qkv_bias} does not go with {self.architecture}")
        if self.dtype not in DTYPES:
            raise AcdcError(
                f"unsupported weight dtype {self.dtype!r}; supported: {', '.join(DTYPES)}"
            )


def from_hf(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """Reads the fields of a Hugging Face `config.json`.

    Args:
        fields: The parsed file, as transformers 4 (`rope_theta`, `torch_dtype`) or 5
            (`rope_parameters`, `dtype`) writes it.
        where: The file's name, for messages.

    Raises:
        AcdcError: An architecture or a field that the decoder does not implement, by name.
    """
    architectures = fields.get("architectures") or []
    architecture = architectures[0] if architectures else fields.get("model_type", "")
    if architecture not in _MODEL_TYPES:
        raise AcdcError(
            f"{where}: unsupported architecture {architecture!r}; "
            f"supported: {', '.join(_MODEL_TYPES)}"
        )
    qwen2 = architecture == "Qwen2ForCausalLM"
    rope = dict(fields.get("rope_parameters") or {})
    if rope.get("rope_type", "default") != "default":
        raise AcdcError(f"{where}: unsupported rope_parameters.rope_type = {rope['rope_type']!r}")
    for name, allowed in _UNUSED.items():
        value = rope.get(name) if name in rope else fields.get(name)
        if value not in allowed:
            raise AcdcError(f"{where}: unsupported {name} = {value!r}")
    for layer_type in fields.get("layer_types") or ():
        if layer_type != "full_attention":
            raise AcdcError(f"{where}: unsupported layer_types entry {layer_type!r}")

    def number(name: str, default: float | None = None) -> float:
        value = fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            problem = "is missing" if value is None else f"= {value!r} is not a number"
            raise AcdcError(f"{where}: field {name} {problem}")
        return value

    hidden, heads = int(number("hidden_size")), int(number("num_attention_heads"))
    theta = rope.get("rope_theta", fields.get("rope_theta", 10_000.0))
    try:
        return ModelConfig(
            architecture=architecture,
            vocab_size=int(number("vocab_size")),
            hidden_size=hidden,
            intermediate_size=int(number("intermediate_size")),
            num_layers=int(number("num_hidden_layers")),
            num_heads=heads,
            num_kv_heads=int(number("num_key_value_heads", heads)),
            head_dim=int(number("head_dim", hidden // max(heads, 1))),
            rope_theta=float(theta),
            rms_norm_eps=float(number("rms_norm_eps", 1e-6)),
            tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
            qkv_bias=qwen2,
            max_positions=int(number("max_position_embeddings")),
            dtype=str(fields.get("dtype") or fields.get("torch_dtype") or "float32"),
        )
    except AcdcError as error:
        raise AcdcError(f"{where}: {error}") from None


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns the fields of a `config.json` that transformers 4 and 5 both read."""
    fields: dict[str, Any] = {
        "architectures": [config.architecture],
        "model_type": _MODEL_TYPES[config.architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "dtype": config.dtype,
        "torch_dtype": config.dtype,
    }
    if config.architecture == "LlamaForCausalLM":
        fields |= {"attention_bias": False, "mlp_bias": False}
    else:
        fields |= {"use_sliding_window": False}
    return fields
