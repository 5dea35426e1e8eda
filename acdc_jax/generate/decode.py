"""Responses to many prompts, from one member or from a population at once.

Prompts are padded on the left to a few lengths (buckets) and batches to a few sizes, so that
compilations are few. Each batch is one jitted prefill and one jitted decoding loop, which ends as
soon as every row has met a stop token. Of a population, all members answer the same prompts in
one call: the forward pass is mapped over them inside the loop, which is shared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.generate.batches import batches, padded
from acdc_jax.generate.sampling import Sampling, sample
from acdc_jax.model.attention import Cache, empty_cache
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import Weights, forward


@dataclass(frozen=True)
class Batch:
    """Responses to some of the prompts.

    Attributes:
        indices: Which prompts these are.
        tokens: By member, then by prompt as in `indices`: the response's tokens, without the stop
            token.
    """

    indices: list[int]
    tokens: list[list[list[int]]]


@dataclass(frozen=True)
class _Settings:
    """What a compiled function is specialised for, besides its shapes."""

    stop_tokens: tuple[int, ...]
    pad_token: int
    max_new_tokens: int
    sampling: Sampling
    population: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """The decoding loop's state; a population adds a leading axis where [members] is written.

    Attributes:
        cache: Keys and values [members]; `valid` and `length` are common to the members.
        token: [members, batch] int32, the last token drawn.
        position: [batch] int32, the position of that token.
        tokens: [members, batch, max_new_tokens] int32, what has been drawn; padding after a stop.
        done: [members, batch] bool, rows that have met a stop token.
        keys: [members, batch] typed PRNG keys, one per response; None when greedy.
        step: int32 scalar, tokens drawn so far.
    """

    cache: Cache
    token: jax.Array
    position: jax.Array
    tokens: jax.Array
    done: jax.Array
    keys: jax.Array | None
    step: jax.Array


def generate(
    config: ModelConfig,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    *,
    stop_tokens: tuple[int, ...],
    pad_token: int,
    max_new_tokens: int,
    sampling: Sampling,
    key: jax.Array,
    batch_size: int,
    population: int | None = None,
) -> Iterator[Batch]:
    """Responds to prompts, batch by batch; the next batch decodes while one is looked at.

    Prompts are checked at the call, before anything is computed.

    A response depends on the key, the member and the prompt's index, not on its batch (up to the
    rounding of matrix products of different sizes).

    Args:
        config: The decoder.
        weights: One member's weights or, for a population, every leaf with a leading axis.
        prompts: Token ids, at least one each.
        stop_tokens: Ids that end a response.
        pad_token: Id that fills rows up; never looked at.
        max_new_tokens: Longest response, in tokens.
        sampling: Greedy, or temperature and nucleus.
        key: Typed PRNG key. Member m of a population draws from `split(key, population)[m]`, the
            n-th token of prompt i from `fold_in(fold_in(., i), n)`.
        batch_size: Most prompts decoded at once.
        population: Number of members, or None for one member without the leading axis.

    Returns:
        Every prompt once, short ones first.

    Raises:
        AcdcError: A prompt that is empty or leaves no room for the response, by its index.
    """
    _check(config, prompts, max_new_tokens, batch_size)
    settings = _Settings(
        tuple(stop_tokens), pad_token, max_new_tokens, sampling, population is not None
    )
    return _generate(config, weights, prompts, settings, key, batch_size, population)


def _generate(
    config: ModelConfig,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    settings: _Settings,
    key: jax.Array,
    batch_size: int,
    population: int | None,
) -> Iterator[Batch]:
    """`generate` after its checks."""
    waiting: tuple[list[int], jax.Array] | None = None
    for indices, length, rows in batches(prompts, batch_size):
        tokens, valid = padded([prompts[i] for i in indices], length, rows, settings.pad_token)
        keys = None
        if not settings.sampling.greedy:
            # Rows that only fill the batch may have any key.
            numbers = np.resize(np.asarray(indices, np.int32), rows)
            keys = _keys(key, jax.device_put(numbers), population)
        state = _prefill(config, weights, tokens, valid, keys, settings)
        with jax.transfer_guard("disallow"):
            drawn = _decode(config, weights, state, settings).tokens
        if waiting is not None:
            yield _collect(*waiting, settings)
        waiting = indices, drawn
    if waiting is not None:
        yield _collect(*waiting, settings)


def _check(
    config: ModelConfig, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int
) -> None:
    """Refuses what cannot be decoded."""
    if max_new_tokens < 1 or batch_size < 1:
        raise AcdcError(
            f"max_new_tokens and batch_size must be positive, not {max_new_tokens}, {batch_size}"
        )
    room = config.max_positions - max_new_tokens
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise AcdcError(f"prompt {i} is empty")
        if len(prompt) > room:
            raise AcdcError(
                f"prompt {i} has {len(prompt)} tokens; with max_new_tokens {max_new_tokens} the "
                f"model's {config.max_positions} positions leave room for {max(room, 0)}"
            )


@partial(jax.jit, static_argnums=2)
def _keys(key: jax.Array, indices: jax.Array, population: int | None) -> jax.Array:
    """Returns one key per row, [members, rows]."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    if population is None:
        return fold(key, indices)
    return jax.vmap(fold, in_axes=(0, None))(jax.random.split(key, population), indices)


def _forward(
    config: ModelConfig,
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    valid: jax.Array,
    *,
    population: bool,
) -> tuple[jax.Array, Cache]:
    """Logits [members, batch, vocabulary] of the last token, and the cache."""

    def one(weights: Weights, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        logits, new = forward(config, weights, tokens, positions, cache, valid, last_only=True)
        assert new is not None
        return logits[:, 0], new

    if not population:
        return one(weights, tokens, cache)
    # What the members share is not mapped: a mapped slot index would turn the cache's slice
    # update into a scatter, and a mapped loop would copy every cache in every step.
    fresh = cache.k[0].ndim == 4
    past = Cache(k=None if fresh else 0, v=None if fresh else 0, valid=None, length=None)  # type: ignore[arg-type]
    new = Cache(k=0, v=0, valid=None, length=None)  # type: ignore[arg-type]
    mapped = jax.vmap(one, in_axes=(0, None if fresh else 0, past), out_axes=(0, new))
    return mapped(weights, tokens, cache)


def _draw(state: _State, logits: jax.Array, settings: _Settings) -> _State:
    """Draws a token for every row from logits [members, batch, vocabulary]; done rows get padding.

    The arithmetic is `sample`'s, mapped over the members.
    """

    def choose(logits: jax.Array, keys: jax.Array | None) -> jax.Array:
        if keys is not None:
            keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, state.step)
        return sample(logits, keys, settings.sampling)

    token = (jax.vmap(choose) if settings.population else choose)(logits, state.keys)
    token = jnp.where(state.done, jnp.int32(settings.pad_token), token)
    stop = jnp.isin(token, jnp.asarray(settings.stop_tokens, jnp.int32))
    return replace(
        state,
        token=token,
        position=state.position + 1,
        tokens=jax.lax.dynamic_update_slice_in_dim(
            state.tokens, token[..., None], state.step, axis=state.tokens.ndim - 1
        ),
        done=state.done | stop,
        step=state.step + 1,
    )


@partial(jax.jit, static_argnames=("config", "settings"))
def _prefill(
    config: ModelConfig,
    weights: Weights,
    tokens: jax.Array,
    valid: jax.Array,
    keys: jax.Array | None,
    settings: _Settings,
) -> _State:
    """Reads the prompts and draws the first token of every response."""
    rows, length = tokens.shape
    embed = weights["embed.weight"]
    cache = empty_cache(config, rows, length + settings.max_new_tokens, embed.dtype)
    positions = jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
    logits, cache = _forward(
        config, weights, tokens, positions, cache, valid, population=settings.population
    )
    drawn = logits.shape[:-1]
    state = _State(
        cache=cache,
        token=jnp.zeros(drawn, jnp.int32),
        position=positions[:, -1],
        tokens=jnp.full((*drawn, settings.max_new_tokens), settings.pad_token, jnp.int32),
        done=jnp.broadcast_to(~valid[:, -1], drawn),  # rows that only fill the batch
        keys=keys,
        step=jnp.zeros((), jnp.int32),
    )
    return _draw(state, logits, settings)


# The state is donated: its cache, next to the weights the largest thing there is, is updated in
# place. It is returned whole for that, although only the tokens are looked at.
@partial(jax.jit, static_argnames=("config", "settings"), donate_argnames=("state",))
def _decode(
    config: ModelConfig,
    weights: Weights,
    state: _State,
    settings: _Settings,
) -> _State:
    """Draws tokens until every row is done or has its `max_new_tokens`."""

    def unfinished(state: _State) -> jax.Array:
        return (state.step < settings.max_new_tokens) & ~state.done.all()

    def advance(state: _State) -> _State:
        here = jnp.ones((state.position.shape[0], 1), bool)
        logits, cache = _forward(
            config,
            weights,
            state.token[..., None],
            state.position[:, None],
            state.cache,
            here,
            population=settings.population,
        )
        return _draw(replace(state, cache=cache), logits, settings)

    return jax.lax.while_loop(unfinished, advance, state)


def _collect(indices: list[int], drawn: jax.Array, settings: _Settings) -> Batch:
    """Waits for a batch and cuts its responses at their stop tokens."""
    tokens = jax.device_get(drawn)
    if not settings.population:
        tokens = tokens[None]
    stop = np.isin(tokens, settings.stop_tokens)
    lengths = np.where(stop.any(-1), stop.argmax(-1), tokens.shape[-1])
    return Batch(
        indices,
        [
            [rows[i, : ends[i]].tolist() for i in range(len(indices))]
            for rows, ends in zip(tokens, lengths, strict=True)
        ],
    )
