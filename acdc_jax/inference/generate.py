"""Text in, text out: the `generate` of the public API."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from acdc_jax.inference.continuous_batching import GenerateOptions, generate_tokens
from acdc_jax.inference.overflow import describe_overflow
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.inference.text_codec import make_text_codec
from acdc_jax.models import tokenizer
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.model import Model


def generate(
    model: Model,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 512,
    sampling: Sampling = GREEDY,
    key: Key[Array, ""] | None = None,
    system_prompt: str | None = None,
    batch_size: int = 64,
) -> list[str]:
    """Return the model's responses to prompts.

    A chat model reads each prompt in its chat template; another model continues the text.

    Args:
        model: The model.
        prompts: User messages, or texts to continue.
        max_new_tokens: Longest response, in tokens.
        sampling: How to sample tokens; greedy by default.
        key: Typed PRNG key; needed only for sampling.
        system_prompt: System message of a chat model; None: none.
        batch_size: Most sequences at once.

    Returns:
        One text per prompt.

    Raises:
        ValueError: A prompt is empty or too long, a temperature is given without a key, or a system
            prompt for a model without a chat template; or activations overflow the model's dtype.
        TypeError: `prompts` is one text instead of several.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts is one text; pass a list of texts")
    if not sampling.greedy and key is None:
        raise ValueError("sampling with a temperature needs a key: pass key=jax.random.key(0)")
    encode, options = _prepare(model, system_prompt, sampling, batch_size)
    responses = [""] * len(prompts)
    for batch in generate_tokens(
        model.config,
        fuse_weights(model.config, jax.tree.map(jnp.asarray, model.params), donate=True),
        [encode(prompt) for prompt in prompts],
        max_new_tokens,
        jax.random.key(0) if key is None else key,
        options,
    ):
        if batch.non_finite:
            overflow = describe_overflow(model.config.dtype, 'load it with dtype="bfloat16"')
            raise ValueError(f"{model.tokenizer.name_or_path}: {overflow}")
        for index, tokens in zip(batch.indices, batch.tokens[0], strict=True):
            responses[index] = tokenizer.decode(model.tokenizer, tokens)
    return responses


def _prepare(
    model: Model, system_prompt: str | None, sampling: Sampling, batch_size: int
) -> tuple[Callable[[str], Sequence[int]], GenerateOptions]:
    """Return the encoding of prompts, and the options of the generation."""
    rows, tok, stop_tokens = model.config.vocab_size, model.tokenizer, model.stop_tokens
    pad_token = tokenizer.pad_token(tok, stop_tokens, rows)
    options = GenerateOptions(stop_tokens, pad_token, batch_size, sampling)
    if tok.chat_template:
        return make_text_codec(tok, stop_tokens, rows, system_prompt=system_prompt).encode, options
    if system_prompt is not None:
        raise ValueError(
            f"{tok.name_or_path}: a model without a chat template has no system prompt"
        )
    return lambda prompt: tokenizer.with_rows(tok, tok.encode(prompt), rows), options
