"""The jitted parts of generation: initial state, prefill into slots, decoding steps in all slots.

Every sequence has a slot, a row of the cache, and leaves it when it ends. The shapes never change,
so another sequence can enter without compilation. In a population, all members answer the prompt of
a slot together, each with its own cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from acdc_jax.inference.sampling import Sampling, confidence, sample
from acdc_jax.models.attention import KVCache, empty_cache
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels.cache_rows import write_rows
from acdc_jax.models.kernels.options import Kernels
from acdc_jax.models.kernels.peer_all_reduce import PeerInboxes
from acdc_jax.models.transformer import FusedParams, forward
from acdc_jax.params import Params

# For GPUs: cuBLAS reads the weights of a decoding step faster than XLA's own matrix products, and a
# loop recorded as one CUDA graph has shorter gaps between its hundreds of kernels.
_COMPILER: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
LOOP_COMPILER = _COMPILER | {
    "xla_gpu_enable_cublaslt": True,
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,WHILE,CONDITIONAL,DYNAMIC_SLICE_FUSION"
    ),
    "xla_gpu_graph_min_graph_size": 1,
}


class Placement(NamedTuple):
    """Shardings of a decoding state on a mesh.

    Attributes:
        cache: Sharding of keys and values [members, slots, tokens, kv_heads, head_dim].
        replicated: Sharding of the other arrays.
    """

    cache: NamedSharding
    replicated: NamedSharding


@dataclass(frozen=True)
class StepSettings:
    """Static arguments of the jitted functions.

    Attributes:
        model: Shape of the decoder.
        stop_tokens: Ids that end a response.
        pad_token: Id that fills rows; never attended to.
        max_new_tokens: Longest response of any prompt.
        sampling: How to sample tokens.
        population: Whether the leaves of the weights have a leading axis of members.
        prefix: Number of tokens that all prompts begin with; they stay in every slot.
        steps: Most tokens sampled by one call of `decode`.
        early_exit: Whether `decode` checks before each token that a response still needs one. On a
            GPU, the check would stall the loop.
        log_probs: Whether to keep the log-probabilities of sampled tokens.
        placement: Shardings on a mesh; None: the default device.
        kernels: Which kernels run, and over which devices.
    """

    model: ModelConfig
    stop_tokens: tuple[int, ...]
    pad_token: int
    max_new_tokens: int
    sampling: Sampling
    population: bool
    prefix: int
    steps: int
    early_exit: bool
    log_probs: bool
    placement: Placement | None
    kernels: Kernels


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampledTokens:
    """The part of the state that the host reads between calls.

    Attributes:
        tokens: [members, slots, max_new_tokens] int32, padding after a response's end.
        count: [slots] int32, number of tokens sampled for responses that have not ended.
        done: [members, slots] bool, True where a response has ended or the slot is empty.
        finite: [members, slots] bool, False where a logit was not finite, which ended the response.
        log_probs: [members, slots, max_new_tokens] float32, log-probabilities of the tokens; None
            if not kept.
        mean_log_probs: [members, slots, max_new_tokens] float32, means over the vocabulary; None
            if not kept.
    """

    tokens: jax.Array
    count: jax.Array
    done: jax.Array
    finite: jax.Array
    log_probs: jax.Array | None
    mean_log_probs: jax.Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeState:
    """All sequences in the slots. Without a population, the axis of members has size one.

    Attributes:
        cache: Keys and values, with leading axis [members].
        sampled: The responses so far.
        token: [members, slots] int32, the last token sampled.
        position: [slots] int32, the position of that token.
        limit: [slots] int32, most tokens of a response.
        keys: [members, slots] typed PRNG keys, one per response; None if greedy.
    """

    cache: KVCache
    sampled: SampledTokens
    token: jax.Array
    position: jax.Array
    limit: jax.Array
    keys: jax.Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompts:
    """Prompts to prefill into slots; padding rows name a slot that does not exist.

    Attributes:
        tokens: [rows, padded length] int32, without the common prefix, padded on the right.
        lengths: [rows] int32, without the common prefix and padding.
        slots: [rows] int32.
        limits: [rows] int32, most tokens of each response.
        numbers: [rows] int32, folded into the PRNG keys.
    """

    tokens: jax.Array
    lengths: jax.Array
    slots: jax.Array
    limits: jax.Array
    numbers: jax.Array


@partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=_COMPILER)
def init_state(
    settings: StepSettings,
    members: int,
    slots: int,
    length: int,
    params: Params | FusedParams,
    prefix: jax.Array,
    key: jax.Array,
) -> DecodeState:
    """Return empty slots of `length` tokens each that all hold the common prefix.

    Args:
        settings: Static.
        members: Number of members; static.
        slots: Number of slots; static.
        length: Tokens of each slot; static.
        params: Weights of one member or of a population.
        prefix: [tokens] int32, the common prefix.
        key: Typed PRNG key; only its shape and dtype matter.
    """
    shape, zeros = (members, slots), jnp.zeros((slots,), jnp.int32)
    log_probs = jnp.zeros((*shape, settings.max_new_tokens)) if settings.log_probs else None
    state = DecodeState(
        cache=_over_members(
            settings, partial(_read_prefix, settings, slots, length, prefix), params
        ),
        sampled=SampledTokens(
            tokens=jnp.full((*shape, settings.max_new_tokens), settings.pad_token, jnp.int32),
            count=zeros,
            done=jnp.ones(shape, bool),
            finite=jnp.ones(shape, bool),
            log_probs=log_probs,
            mean_log_probs=log_probs,
        ),
        token=jnp.full(shape, settings.pad_token, jnp.int32),
        position=zeros + settings.prefix,
        limit=zeros,
        keys=None if settings.sampling.greedy else jax.random.split(key.reshape(-1)[0], shape),
    )
    return _constrain(settings, state)


def _read_prefix(
    settings: StepSettings,
    slots: int,
    length: int,
    prefix: jax.Array,
    params: Params | FusedParams,
) -> KVCache:
    """Return one member's cache with the common prefix in all slots."""
    config, dtype = settings.model, params["embed.weight"].dtype
    if not settings.prefix:
        return empty_cache(config, slots, length, dtype)
    positions = jnp.arange(settings.prefix, dtype=jnp.int32)[None]
    # XLA drops the logits, which nothing uses.
    _, filled = forward(
        config,
        params,
        prefix[None],
        positions,
        empty_cache(config, 1, settings.prefix, dtype),
        last=positions[:, 0],
        kernels=settings.kernels,
    )
    room = ((0, 0), (0, length - settings.prefix), (0, 0), (0, 0))

    def repeat(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.pad(x, room), (slots, length, *x.shape[2:]))

    assert filled is not None
    return KVCache(tuple(map(repeat, filled.k)), tuple(map(repeat, filled.v)))


# The state is donated here and in `decode`: its cache, after the weights the largest arrays, is
# updated in place.
@partial(
    jax.jit,
    static_argnames="settings",
    donate_argnames="state",
    compiler_options=_COMPILER,
)
def prefill(
    settings: StepSettings,
    params: Params | FusedParams,
    state: DecodeState,
    prompts: Prompts,
    key: jax.Array,
) -> DecodeState:
    """Read prompts into their slots and sample the first token of each response.

    Args:
        settings: Static.
        params: Weights of one member or of a population.
        state: Donated.
        prompts: Prompts to read.
        key: Typed PRNG key. Member m of a population samples from `split(key, members)[m]`, token n
            of prompt i from `fold_in(fold_in(., i), n)`. Or [members] keys, one per member.
    """
    logits, cache = _over_members(
        settings, partial(_read_prompts, settings, prompts), params, state.cache
    )
    keys = None
    if state.keys is not None:
        keys = _row_keys(settings, key, state.keys.shape[0], prompts.numbers)
    zeros = jnp.zeros((len(prompts.tokens),), jnp.int32)
    token, finite, log_probs = _sample(settings, logits, keys, zeros)

    def enter(x: Any, new: Any) -> Any:
        return None if x is None else x.at[..., prompts.slots].set(new, mode="drop")

    def restart(x: Any, first: Any, rest: Any) -> Any:
        if x is None:
            return None
        fresh = jnp.full((*first.shape, settings.max_new_tokens), rest, x.dtype)
        return x.at[:, prompts.slots].set(fresh.at[..., 0].set(first), mode="drop")

    before = state.sampled
    sampled = SampledTokens(
        tokens=restart(before.tokens, token, settings.pad_token),
        count=enter(before.count, zeros + 1),
        done=enter(before.done, ~finite | _has_ended(settings, token, zeros + 1, prompts.limits)),
        finite=enter(before.finite, finite),
        log_probs=restart(before.log_probs, log_probs[0], 0.0),
        mean_log_probs=restart(before.mean_log_probs, log_probs[1], 0.0),
    )
    state = DecodeState(
        cache=cache,
        sampled=sampled,
        token=enter(state.token, token),
        position=enter(state.position, settings.prefix + prompts.lengths),
        limit=enter(state.limit, prompts.limits),
        keys=enter(state.keys, keys),
    )
    return _constrain(settings, state)


@jax.named_scope("prefill")
def _read_prompts(
    settings: StepSettings, prompts: Prompts, params: Params | FusedParams, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    """Return one member's logits [rows, vocabulary] of the last tokens, and its cache."""
    rows, length = prompts.tokens.shape
    shared, end = settings.prefix, settings.prefix + length
    positions = jnp.broadcast_to(jnp.arange(shared, end, dtype=jnp.int32)[None], (rows, length))

    def with_prefix(x: jax.Array) -> jax.Array:
        prefix = jnp.broadcast_to(x[:1, :shared], (rows, shared, *x.shape[2:]))
        return jnp.pad(prefix, ((0, 0), (0, length), (0, 0), (0, 0)))

    logits, new = forward(
        settings.model,
        params,
        prompts.tokens,
        positions,
        jax.tree.map(with_prefix, cache),
        last=jnp.maximum(prompts.lengths - 1, 0),
        kernels=settings.kernels,
    )

    def write(x: jax.Array, new: jax.Array) -> jax.Array:
        return write_rows(x, new, prompts.slots, shared, settings.kernels)

    return logits[:, 0], jax.tree.map(write, cache, new)


@partial(
    jax.jit,
    static_argnames="settings",
    donate_argnames="state",
    compiler_options=LOOP_COMPILER,
)
def decode(
    settings: StepSettings,
    params: Params | FusedParams,
    state: DecodeState,
    cancelled: jax.Array,
    inboxes: PeerInboxes | None = None,
) -> tuple[DecodeState, SampledTokens]:
    """Sample `settings.steps` tokens for every response that has not ended.

    Args:
        settings: Static.
        params: Weights of one member or of a population.
        state: Donated.
        cancelled: [members, slots] bool, responses that the host has ended.
        inboxes: From `all_reduce_trial.choose_inboxes`; None: XLA sums over devices.

    Returns:
        The state, and its `sampled` once more, because the state is donated to the next call.
    """
    done = state.sampled.done | cancelled
    state = replace(state, sampled=replace(state.sampled, done=done))
    if settings.early_exit:
        _, state = jax.lax.while_loop(
            lambda carry: (carry[0] < settings.steps) & ~carry[1].sampled.done.all(),
            lambda carry: (carry[0] + 1, _decode_step(settings, params, carry[1], inboxes)),
            (jnp.int32(0), state),
        )
    else:
        state = jax.lax.fori_loop(
            0,
            settings.steps,
            lambda _, state: _decode_step(settings, params, state, inboxes),
            state,
        )
    state = _constrain(settings, state)
    return state, state.sampled


@jax.named_scope("decode_step")
def _decode_step(
    settings: StepSettings,
    params: Params | FusedParams,
    state: DecodeState,
    inboxes: PeerInboxes | None,
) -> DecodeState:
    """Sample one token in every slot."""
    kernels = settings.kernels
    if kernels.heads is not None:
        kernels = replace(kernels, heads=kernels.heads._replace(inboxes=inboxes))
    # Idle slots wait at the shortest length: short rows are read fast.
    busy = ~state.sampled.done.all(0)
    position = jnp.where(busy, state.position, settings.prefix)

    def step(
        params: Params | FusedParams, token: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        logits, new = forward(
            settings.model, params, token[:, None], position[:, None], cache, kernels=kernels
        )
        assert new is not None
        return logits[:, 0], new

    logits, cache = _over_members(settings, step, params, state.token, state.cache)
    before = state.sampled
    token, finite, log_probs = _sample(settings, logits, state.keys, before.count)
    finite = before.finite & (before.done | finite)
    token = jnp.where(before.done, jnp.int32(settings.pad_token), token)
    places = jnp.arange(settings.max_new_tokens, dtype=jnp.int32)
    current = (places[None] == before.count[:, None])[None] & ~before.done[..., None]

    def append(x: jax.Array | None, new: jax.Array | None) -> jax.Array | None:
        return None if x is None or new is None else jnp.where(current, new[..., None], x)

    count = before.count + busy.astype(jnp.int32)
    return replace(
        state,
        cache=cache,
        sampled=SampledTokens(
            tokens=append(before.tokens, token),  # type: ignore[arg-type]
            count=count,
            done=before.done | ~finite | _has_ended(settings, token, count, state.limit),
            finite=finite,
            log_probs=append(before.log_probs, log_probs[0]),
            mean_log_probs=append(before.mean_log_probs, log_probs[1]),
        ),
        token=token,
        position=position + busy.astype(jnp.int32),
    )


@jax.named_scope("sample")
def _sample(
    settings: StepSettings, logits: jax.Array, keys: jax.Array | None, count: jax.Array
) -> tuple[jax.Array, jax.Array, tuple[jax.Array | None, jax.Array | None]]:
    """Sample token number `count` [rows] of each response from [members, rows, vocabulary].

    Returns:
        The tokens, whether their logits are finite, and log-probabilities. Where activations
        overflow, all logits are NaN, so that one of them tells.
    """

    def choose(logits: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, jax.Array, Any]:
        if keys is not None:
            keys = jax.vmap(jax.random.fold_in)(keys, count)
        token, logit = sample(logits, keys, settings.sampling)
        return (
            token,
            jnp.isfinite(logit),
            confidence(logits, token) if settings.log_probs else (None, None),
        )

    return jax.vmap(choose)(logits, keys)


def _has_ended(
    settings: StepSettings, token: jax.Array, count: jax.Array, limit: jax.Array
) -> jax.Array:
    """Return which responses end with this token [members, rows], number `count` [rows]."""
    stop = jnp.isin(token, jnp.asarray(settings.stop_tokens, jnp.int32))
    return stop | (count >= limit)[None]


def _row_keys(
    settings: StepSettings, key: jax.Array, members: int, numbers: jax.Array
) -> jax.Array:
    """Return [members, rows] keys, one per row."""
    if key.ndim == 1:
        member_keys = key
    else:
        member_keys = jax.random.split(key, members) if settings.population else key[None]
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(fold, in_axes=(0, None))(member_keys, numbers)


def _over_members(
    settings: StepSettings,
    run: Callable[..., Any],
    params: Params | FusedParams,
    *arrays: Any,
) -> Any:
    """Map `run` over members; all arrays have a leading axis [members].

    A single member is not mapped over an axis of one: its matrix products stay plain ones.
    """
    if settings.population:
        return jax.vmap(run)(params, *arrays)
    first = jax.tree.map(lambda x: x[0], arrays)
    return jax.tree.map(lambda x: x[None], run(params, *first))


def _constrain(settings: StepSettings, state: DecodeState) -> DecodeState:
    """Constrain the state to its shardings, so that every call gets the same ones."""
    if settings.placement is None:
        return state
    cache, replicated = settings.placement
    shardings = replace(jax.tree.map(lambda _: replicated, state), cache=cache)
    constrained: DecodeState = jax.lax.with_sharding_constraint(state, shardings)
    return constrained
