"""Tell whether a model's activations fit its dtype; they may not although the weights do."""

import math
from collections.abc import Sequence

from acdc_jax.inference.score import log_likelihoods
from acdc_jax.models.config import ModelConfig
from acdc_jax.params import Params


def overflows(config: ModelConfig, params: Params, prompt: Sequence[int]) -> bool:
    """Return whether a model's logits are not finite at the end of a prompt.

    Args:
        config: Shape of the decoder.
        params: One member's weights.
        prompt: Token ids, at least one.
    """
    text = [*prompt[-config.max_positions :], 0]  # any token can follow
    ((_, value, _),) = log_likelihoods(config, params, [text], [1], pad_token=0, batch_size=1)
    return not math.isfinite(value)


def describe_overflow(dtype: str, remedy: str = "use --dtype=bfloat16") -> str:
    """Return one line on a model whose logits are not finite.

    Args:
        dtype: Dtype of the model's weights.
        remedy: How to have the model in bfloat16, whose range is that of float32.
    """
    remedy = remedy if dtype == "float16" else "leave the model out"
    return f"activations overflow {dtype} (logits are NaN); {remedy}"
