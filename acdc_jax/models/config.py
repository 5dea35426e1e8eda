"""The shape of a decoder. `families.py` converts it from and to a Hugging Face `config.json`."""

from dataclasses import dataclass

DTYPES = ("float32", "bfloat16", "float16")
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder. Hashable, so that it can be a static argument of a jitted function.

    Every difference between families is a field, so that one decoder computes them all. Values are
    numbers, strings and tuples of numbers, which JSON preserves.

    Attributes:
        architecture: Hugging Face name of the family, such as "Qwen2ForCausalLM".
        vocab_size: Rows of the embedding, padding rows included.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layer.
        num_layers: Number of decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides `num_heads`.
        head_dim: Width of one head; even.
        rope_theta: Base of the rotary frequencies.
        rope_type: How the frequencies are scaled, one of `ROPE_TYPES`. "dynamic" scales none within
            `max_positions`.
        rope_factor: Divisor of the frequencies ("linear": all of them; "llama3" and "yarn": the low
            ones; "dynamic": of none, but exports keep it).
        rope_low_freq_factor: "llama3": waves longer than `rope_original_positions` divided by this
            are scaled fully.
        rope_high_freq_factor: "llama3": waves shorter than `rope_original_positions` divided by
            this are not scaled.
        rope_original_positions: "llama3" and "yarn": longest sequence before scaling.
        rope_beta_fast: "yarn": waves with more turns than this in `rope_original_positions` are not
            scaled.
        rope_beta_slow: "yarn": waves with fewer turns than this are scaled fully.
        rope_truncate: "yarn": whether the transition between both starts and ends at whole pairs.
        rope_attention_factor: "yarn": number that cosine and sine are multiplied by.
        local_rope_theta: Base of the unscaled frequencies in layers with a window; 0: these layers
            have the same frequencies as the others.
        windows: Per layer, the number of tokens that a token attends to, itself included; 0: all
            before it. Empty: no layer has a window.
        rms_norm_eps: Number added to the mean square in every norm.
        centred_norms: Whether the stored gains are offsets from one, applied in float32.
        post_norms: Whether the output of attention and of the feed-forward layer is normed too.
        qk_norm: Whether every head's queries and keys are normed.
        qkv_bias: Whether the query, key and value projections have a bias.
        o_bias: Whether the output projection of attention has a bias.
        activation: Activation of the feed-forward layer's gate, one of `ACTIVATIONS`.
        query_scale: Scores are divided by its root; 0: by the root of `head_dim`.
        attention_softcap: c in c · tanh(score / c); 0: no cap.
        logit_softcap: c in c · tanh(logit / c); 0: no cap.
        scale_embedding: Whether embeddings are multiplied by the root of `hidden_size`.
        tie_embeddings: Whether the output head is the embedding.
        max_positions: Longest sequence in tokens, prompt and response together.
        dtype: Dtype of the weights, one of `DTYPES`.

    Raises:
        ValueError: No decoder has such a shape; the field is named.
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
    rope_type: str = "default"
    rope_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_positions: int = 0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rope_truncate: bool = True
    rope_attention_factor: float = 1.0
    local_rope_theta: float = 0.0
    windows: tuple[int, ...] = ()
    rms_norm_eps: float = 1e-6
    centred_norms: bool = False
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    activation: str = "silu"
    query_scale: float = 0.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    scale_embedding: bool = False
    tie_embeddings: bool = False
    max_positions: int = 2048
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "windows", tuple(self.windows))  # JSON makes lists of tuples
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
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions need pairs")
        if self.windows and len(self.windows) != self.num_layers:
            raise ValueError(
                f"windows has {len(self.windows)} entries, but there are {self.num_layers} layers"
            )
        if any(window < 0 for window in self.windows):
            raise ValueError(f"windows {self.windows}: a window cannot be negative")
        if self.rms_norm_eps < 0:
            raise ValueError(f"rms_norm_eps cannot be negative, but is {self.rms_norm_eps}")
        if self.rope_theta <= 1:
            raise ValueError(f"rope_theta must be more than 1, not {self.rope_theta}")
        scaling = {
            "rope_factor": self.rope_type != "default",
            "rope_original_positions": self.rope_type in ("llama3", "yarn"),
            "rope_beta_fast": self.rope_type == "yarn",
            "rope_beta_slow": self.rope_type == "yarn",
        }
        for name, applies in scaling.items():
            if applies and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        low, high = self.rope_low_freq_factor, self.rope_high_freq_factor
        if self.rope_type == "llama3" and not 0 < low <= high:
            raise ValueError(
                f"rope_low_freq_factor {low} must be positive, and at most rope_high_freq_factor, "
                f"{high}"
            )
        for name, allowed in (
            ("dtype", DTYPES),
            ("activation", ACTIVATIONS),
            ("rope_type", ROPE_TYPES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"unsupported {name} = {getattr(self, name)!r}; supported: {', '.join(allowed)}"
                )

    def window(self, layer: int) -> int:
        """Return the number of tokens that a token attends to in a layer; 0: all before it."""
        return self.windows[layer] if self.windows else 0
