"""Activations that overflow the dtype are told, whoever decodes, and only where they do."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acdc_jax
from acdc_jax.errors import AcdcError
from acdc_jax.inference.continuous_batching import GenerateOptions, generate_tokens
from acdc_jax.inference.overflow import overflows
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models import hf_export
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.transformer import forward, init_params
from acdc_jax.params import Params
from acdc_jax.tasks import local_llm
from acdc_jax.tasks.llm import ChatRequest
from tests.support.model_runs import SMALL

CONFIG = dataclasses.replace(SMALL, num_layers=2, tie_embeddings=False, dtype="float16")
BAD = 7  # the token whose activations overflow
LIMIT = 6
PROMPTS = [[3 + i, 20 - i, 11, 12 + i] for i in range(8)] + [[5, BAD, 9], [5, 9, BAD]]


@pytest.fixture(scope="module")
def params() -> Params:
    """Weights that are all finite; feature 0, which only one token has, overflows a gate."""
    params = init_params(CONFIG, jax.random.key(0))
    large = jnp.float16(30_000)
    embedding = params["embed.weight"].at[:, 0].set(0).at[BAD, 0].set(16)
    params |= {"embed.weight": embedding}
    for layer in range(CONFIG.num_layers):
        path = f"layers.{layer}"
        for name in (f"{path}.attention.o.weight", f"{path}.mlp.down.weight"):
            params[name] = params[name].at[0].set(0)
        params[f"{path}.mlp.gate.weight"] = params[f"{path}.mlp.gate.weight"].at[:, 0].set(large)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in params.values())
    # Some responses begin or continue with the token.
    params["head.weight"] = params["head.weight"].at[BAD].multiply(4)
    return params


@jax.jit
def _logits(params: Params, tokens: jax.Array, last: jax.Array) -> jax.Array:
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return forward(CONFIG, params, tokens, positions, last=last)[0][0, 0]


def _expected(params: Params, prompt: list[int]) -> list[int] | None:
    """Return the greedy response, one whole forward pass per token; None if logits are NaN."""
    tokens = list(prompt)
    for _ in range(LIMIT):
        padded = np.zeros((1, 16), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(_logits(params, padded, np.asarray([len(tokens) - 1], np.int32)))
        if np.isnan(logits).any():
            assert np.isnan(logits).all()
            return None
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def _decode(params: Any, **options: Any) -> tuple[dict[int, list[list[int]]], set[int]]:
    """Return each prompt's responses by member, and the prompts in a batch with an overflow."""
    responses, suspects = {}, set()
    # One slot, so that a batch is one prompt.
    fields = GenerateOptions((CONFIG.vocab_size,), pad_token=0, batch_size=1)
    for batch in generate_tokens(
        CONFIG, params, PROMPTS, LIMIT, jax.random.key(0), dataclasses.replace(fields, **options)
    ):
        (index,) = batch.indices
        responses[index] = [of_member[0] for of_member in batch.tokens]
        suspects |= {index} if batch.non_finite else set()
    return responses, suspects


def test_every_overflow_is_told_and_nothing_else(params: Params) -> None:
    expected = [_expected(params, prompt) for prompt in PROMPTS]
    late = [response is None for response in expected[:8]]
    assert any(late)
    assert not all(late)
    responses, suspects = _decode(fuse_weights(CONFIG, params))
    assert suspects == {i for i, response in enumerate(expected) if response is None}
    assert responses == {i: [response or []] for i, response in enumerate(expected)}


def test_members_are_told_apart(params: Params) -> None:
    """In a population, and with sampling."""
    healthy = dict(params)
    for layer in range(CONFIG.num_layers):
        path = f"layers.{layer}.mlp.gate.weight"
        healthy[path] = healthy[path].at[:, 0].set(0)
    population = {path: jnp.stack([healthy[path], params[path]]) for path in params}
    sampling = Sampling(1.0, top_p=0.9, top_k=5)
    options = GenerateOptions((CONFIG.vocab_size,), 0, batch_size=16, sampling=sampling)
    options = dataclasses.replace(options, population=2, log_probs=True)
    batches = list(generate_tokens(CONFIG, population, PROMPTS, LIMIT, jax.random.key(0), options))
    assert {member for batch in batches for member in batch.non_finite} == {1}
    for batch in batches:
        assert all(len(response) == LIMIT for response in batch.tokens[0])
        for index, response in zip(batch.indices, batch.tokens[1], strict=True):
            assert response == [] or PROMPTS[index][-2:].count(BAD) == 0


def test_one_prompt_tells(params: Params) -> None:
    assert overflows(CONFIG, params, [5, 9, BAD])
    assert overflows(CONFIG, params, [5, BAD, 9])
    assert not overflows(CONFIG, params, [5, 9, 11])
    assert not overflows(CONFIG, params, [BAD] + [5] * CONFIG.max_positions)


def test_models_that_overflow_do_not_answer(tokenizer_folder: Path, tmp_path: Path) -> None:
    """In the public API, and as a scientist."""
    params = init_params(CONFIG, jax.random.key(0))
    for name in ("gate", "up"):
        path = f"layers.0.mlp.{name}.weight"
        params[path] = params[path] * jnp.float16(1000)
    hf_export.save(tmp_path / "model", CONFIG, params, tokenizer_folder)
    said = "model: activations overflow float16"
    with pytest.raises(ValueError, match=f'{said} .*; load it with dtype="bfloat16"'):
        acdc_jax.generate(acdc_jax.load_hf(tmp_path / "model"), ["a"], max_new_tokens=2)
    scientist = local_llm.load_local_model(tmp_path / "model", jax.devices()[:1])
    chat = local_llm.LocalChat(scientist, 1.0, 1.0, max_tokens=2, batch_size=1)
    request = ChatRequest("propose", "", "a", 0, None, sampled=False)
    with pytest.raises(AcdcError, match=f"{said} .*; convert it to bfloat16"):
        asyncio.run(chat.complete(request))
    with pytest.raises(AcdcError, match=f"{said} .*; convert it to bfloat16"):
        asyncio.run(local_llm.LocalEmbedder(scientist).embed(["a"]))
