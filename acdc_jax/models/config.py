"""What a decoder looks like. `families.py` reads and writes it as a Hugging Face `config.json`."""

from dataclasses import dataclass

from acdc_jax.errors import AcdcError

DTYPES = ("float32", "bfloat16", "float16")
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder. Hashable, so that it can be a static argument of a jitted function.

    Every difference between families is a field, so that one decoder computes them all. The values
    are numbers, strings and tuples of numbers: JSON keeps them.

    Attributes:
        architecture: Hugging Face's name of the family, such as "Qwen2ForCausalLM".
        vocab_size: Rows of the embedding, padding rows included.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layer.
        num_layers: Number of decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides `num_heads`.
        head_dim: Width of one head; even.
        rope_theta: Base of the rotary frequencies.
        rope_type: How the frequencies are stretched, one of `ROPE_TYPES`.
        rope_factor: By how much ("linear": all of them; "llama3": the low ones).
        rope_low_freq_factor: "llama3": waves longer than `rope_original_positions` over this are
            stretched fully.
        rope_high_freq_factor: "llama3": shorter ones than it over this are not stretched.
        rope_original_positions: "llama3": longest sequence before stretching.
        local_rope_theta: Base of the unstretched frequencies in layers with a window; 0: they
            rotate as the others.
        windows: By layer, how many tokens a token sees, itself included; 0: all before it. Empty:
            all layers see all.
        rms_norm_eps: Added to the mean square in every norm.
        centred_norms: Whether gains are stored minus one, and applied in float32.
        post_norms: Whether the output of attention and of the feed-forward layer is normed too.
        qk_norm: Whether every head's queries and keys are normed.
        qkv_bias: Whether the query, key and value projections have a bias.
        o_bias: Whether the output projection of attention has one.
        activation: Of the feed-forward layer's gate, one of `ACTIVATIONS`.
        query_scale: Scores are divided by its root; 0: by the root of `head_dim`.
        attention_softcap: c in c · tanh(score / c); 0: scores as they are.
        logit_softcap: The same for logits.
        scale_embedding: Whether embeddings are multiplied by the root of `hidden_size`.
        tie_embeddings: Whether the output head is the embedding.
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
    rope_type: str = "default"
    rope_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_positions: int = 0
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
        """Refuses shapes that no decoder can have."""
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
                raise AcdcError(f"{name} must be positive, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise AcdcError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise AcdcError(f"head_dim {self.head_dim} is odd; rotary positions need pairs")
        if self.windows and len(self.windows) != self.num_layers:
            raise AcdcError(f"{len(self.windows)} windows for {self.num_layers} layers")
        if any(window < 0 for window in self.windows):
            raise AcdcError(f"windows {self.windows}: a window cannot be negative")
        for name, allowed in (
            ("dtype", DTYPES),
            ("activation", ACTIVATIONS),
            ("rope_type", ROPE_TYPES),
        ):
            if getattr(self, name) not in allowed:
                raise AcdcError(
                    f"unsupported {name} = {getattr(self, name)!r}; supported: {', '.join(allowed)}"
                )

    def window(self, layer: int) -> int:
        """How many tokens a token sees in a layer, itself included; 0: all before it."""
        return self.windows[layer] if self.windows else 0
