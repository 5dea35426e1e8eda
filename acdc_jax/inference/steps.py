"""The compiled parts of generation: start, read prompts into slots, draw tokens in all slots.

Every sequence has a slot, a row of the cache, and leaves it when it ends; the shapes never change,
so that another sequence enters without compiling anything. Of a population, all members answer the
prompt of a slot together, each with a cache of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from acdc_jax.inference.sampling import Sampling, confidence, sample
from acdc_jax.models.attention import Cache, empty_cache
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels.cache_rows import put_rows
from acdc_jax.models.kernels.head_sharding import Spread
from acdc_jax.models.kernels.peer_all_reduce import Peers
from acdc_jax.models.transformer import forward
from acdc_jax.params import Params

# On GPUs: cuBLAS reads the weights of a decoding step faster than XLA's own matrix products, and a
# loop whose hundreds of kernels are recorded as one graph has shorter gaps between them.
_COMPILER: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
LOOP_COMPILER = _COMPILER | {
    "xla_gpu_enable_cublaslt": True,
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,WHILE,CONDITIONAL,DYNAMIC_SLICE_FUSION"
    ),
    "xla_gpu_graph_min_graph_size": 1,
}


@dataclass(frozen=True)
class Settings:
    """What the compiled functions are specialised for, besides their shapes.

    Attributes:
        model: The decoder.
        stop_tokens: Ids that end a response.
        pad_token: Id that fills rows up; never looked at.
        max_new_tokens: Longest response of any prompt.
        sampling: How tokens are drawn.
        population: Whether the leaves of the weights have a leading axis of members.
        prefix: Tokens that all prompts begin with; they stay in every slot.
        steps: Most tokens drawn by one call of `decode`.
        early_exit: Whether `decode` looks, before each token, if anyone still needs one. A GPU
            would wait for the host to look.
        log_probs: Whether the log-probabilities of what is drawn are kept.
        placement: Where keys and values, and where all else lies; None: on the default device.
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
    placement: tuple[NamedSharding, NamedSharding] | None

    @property
    def spread(self) -> Spread | None:
        """Where the heads of the cache lie; None: on one device."""
        if self.placement is None or self.placement[0].mesh.size == 1:
            return None
        caches = self.placement[0]
        assert isinstance(caches.mesh, Mesh)
        return Spread(caches.mesh, caches.spec[3])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawn:
    """What the host looks at between calls.

    Attributes:
        tokens: [members, slots, max_new_tokens] int32, padding after a response's end.
        count: [slots] int32, tokens drawn so far for responses that have not ended.
        done: [members, slots] bool, responses that have ended; True also where a slot is empty.
        log_probs: [members, slots, max_new_tokens] float32 of the tokens; None if not kept.
        mean_log_probs: The same, of the whole vocabulary's mean.
    """

    tokens: jax.Array
    count: jax.Array
    done: jax.Array
    log_probs: jax.Array | None
    mean_log_probs: jax.Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All sequences under way; one member that is no population has a leading axis of one.

    Attributes:
        cache: Keys and values, with leading axis [members].
        drawn: The responses so far.
        token: [members, slots] int32, the last token drawn.
        position: [slots] int32, the position of that token.
        limit: [slots] int32, the longest that a response may get.
        keys: [members, slots] typed PRNG keys, one per response; None when greedy.
    """

    cache: Cache
    drawn: Drawn
    token: jax.Array
    position: jax.Array
    limit: jax.Array
    keys: jax.Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompts:
    """Prompts that enter slots; rows that only fill the shape name a slot that does not exist.

    Attributes:
        tokens: [rows, padded length] int32, without the common prefix, padded on the right.
        lengths: [rows] int32, of that.
        slots: [rows] int32.
        limits: [rows] int32, longest responses.
        numbers: [rows] int32, by which prompts draw from different keys.
    """

    tokens: jax.Array
    lengths: jax.Array
    slots: jax.Array
    limits: jax.Array
    numbers: jax.Array


@partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=_COMPILER)
def start(
    settings: Settings,
    members: int,
    slots: int,
    length: int,
    weights: Params,
    prefix: jax.Array,
    key: jax.Array,
) -> State:
    """Empty slots of `length` tokens each, with the common prefix [tokens] int32 in all of them."""
    config, dtype = settings.model, weights["embed.weight"].dtype
    here = jnp.arange(settings.prefix, dtype=jnp.int32)[None]

    def begin(weights: Params) -> Cache:
        if not settings.prefix:
            return empty_cache(config, slots, length, dtype)
        empty = empty_cache(config, 1, settings.prefix, dtype)
        # No logits are wanted, and XLA drops what only they need.
        _, cache = forward(
            config, weights, prefix[None], here, empty, last=here[:, 0], spread=settings.spread
        )
        room = ((0, 0), (0, length - settings.prefix), (0, 0), (0, 0))

        def repeat(x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(jnp.pad(x, room), (slots, length, *x.shape[2:]))

        assert cache is not None
        return Cache(tuple(map(repeat, cache.k)), tuple(map(repeat, cache.v)))

    drawn, rows = (members, slots), jnp.zeros((slots,), jnp.int32)
    kept = jnp.zeros((*drawn, settings.max_new_tokens)) if settings.log_probs else None
    state = State(
        cache=_over_members(settings, begin, weights),
        drawn=Drawn(
            tokens=jnp.full((*drawn, settings.max_new_tokens), settings.pad_token, jnp.int32),
            count=rows,
            done=jnp.ones(drawn, bool),
            log_probs=kept,
            mean_log_probs=kept,
        ),
        token=jnp.full(drawn, settings.pad_token, jnp.int32),
        position=rows + settings.prefix,
        limit=rows,
        keys=None if settings.sampling.greedy else jax.random.split(key.reshape(-1)[0], drawn),
    )
    return _placed(settings, state)


# The state is donated here and in `decode`: its cache, next to the weights the largest thing there
# is, is updated in place.
@partial(
    jax.jit,
    static_argnames="settings",
    donate_argnames="state",
    compiler_options=_COMPILER,
)
def prefill(
    settings: Settings, weights: Params, state: State, prompts: Prompts, key: jax.Array
) -> State:
    """Reads prompts into their slots and draws the first token of each response.

    Args:
        settings: Static.
        weights: One member's or a population's.
        state: Donated.
        prompts: What to read.
        key: Typed PRNG key. Member m of a population draws from `split(key, members)[m]`, the n-th
            token of prompt i from `fold_in(fold_in(., i), n)`. Or one key per member.
    """
    config = settings.model
    rows, length = prompts.tokens.shape
    shared, whole = settings.prefix, settings.prefix + length
    position = jnp.broadcast_to(jnp.arange(shared, whole, dtype=jnp.int32)[None], (rows, length))

    def read(weights: Params, cache: Cache) -> tuple[jax.Array, Cache]:
        def before(x: jax.Array) -> jax.Array:
            prefix = jnp.broadcast_to(x[:1, :shared], (rows, shared, *x.shape[2:]))
            return jnp.pad(prefix, ((0, 0), (0, length), (0, 0), (0, 0)))

        logits, new = forward(
            config,
            weights,
            prompts.tokens,
            position,
            jax.tree.map(before, cache),
            last=jnp.maximum(prompts.lengths - 1, 0),
            spread=settings.spread,
        )

        def into(x: jax.Array, new: jax.Array) -> jax.Array:
            return put_rows(x, new, prompts.slots, shared, settings.spread)

        return logits[:, 0], jax.tree.map(into, cache, new)

    logits, cache = _over_members(settings, read, weights, state.cache)
    keys = None
    if state.keys is not None:
        keys = _row_keys(settings, key, state.keys.shape[0], prompts.numbers)
    none = jnp.zeros((rows,), jnp.int32)
    token, log_probs = _draw(settings, logits, keys, none)

    def enter(x: Any, new: Any) -> Any:
        return None if x is None else x.at[..., prompts.slots].set(new, mode="drop")

    def restart(x: Any, first: Any, rest: Any) -> Any:
        if x is None:
            return None
        fresh = jnp.full((*first.shape, settings.max_new_tokens), rest, x.dtype)
        return x.at[:, prompts.slots].set(fresh.at[..., 0].set(first), mode="drop")

    drawn = Drawn(
        tokens=restart(state.drawn.tokens, token, settings.pad_token),
        count=enter(state.drawn.count, none + 1),
        done=enter(state.drawn.done, _stopped(settings, token, none + 1, prompts.limits)),
        log_probs=restart(state.drawn.log_probs, log_probs[0], 0.0),
        mean_log_probs=restart(state.drawn.mean_log_probs, log_probs[1], 0.0),
    )
    state = State(
        cache=cache,
        drawn=drawn,
        token=enter(state.token, token),
        position=enter(state.position, shared + prompts.lengths),
        limit=enter(state.limit, prompts.limits),
        keys=enter(state.keys, keys),
    )
    return _placed(settings, state)


@partial(
    jax.jit,
    static_argnames="settings",
    donate_argnames="state",
    compiler_options=LOOP_COMPILER,
)
def decode(
    settings: Settings,
    weights: Params,
    state: State,
    cancelled: jax.Array,
    peers: Peers | None = None,
) -> tuple[State, Drawn]:
    """Draws `settings.steps` tokens for every response that has not ended.

    Args:
        settings: Static.
        weights: One member's or a population's.
        state: Donated.
        cancelled: [members, slots] bool, responses that the host has ended.
        peers: From `exchange.connected`.

    Returns:
        The state, and its `drawn` once more: the state itself is donated to the next call.
    """
    done = state.drawn.done | cancelled
    state = replace(state, drawn=replace(state.drawn, done=done))
    if settings.early_exit:
        _, state = jax.lax.while_loop(
            lambda carry: (carry[0] < settings.steps) & ~carry[1].drawn.done.all(),
            lambda carry: (carry[0] + 1, _advance(settings, weights, carry[1], peers)),
            (jnp.int32(0), state),
        )
    else:
        state = jax.lax.fori_loop(
            0, settings.steps, lambda _, state: _advance(settings, weights, state, peers), state
        )
    state = _placed(settings, state)
    return state, state.drawn


def _advance(settings: Settings, weights: Params, state: State, peers: Peers | None) -> State:
    """Draws one token in every slot."""
    spread = settings.spread and settings.spread._replace(peers=peers)
    # Slots where nobody is at work wait at the shortest length there is: short rows are read fast.
    busy = ~state.drawn.done.all(0)
    position = jnp.where(busy, state.position, settings.prefix)

    def step(weights: Params, token: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        logits, new = forward(
            settings.model,
            weights,
            token[:, None],
            position[:, None],
            cache,
            spread=spread,
        )
        assert new is not None
        return logits[:, 0], new

    logits, cache = _over_members(settings, step, weights, state.token, state.cache)
    before = state.drawn
    done = before.done
    token, log_probs = _draw(settings, logits, state.keys, before.count)
    token = jnp.where(done, jnp.int32(settings.pad_token), token)
    places = jnp.arange(settings.max_new_tokens, dtype=jnp.int32)
    here = (places[None] == before.count[:, None])[None] & ~done[..., None]

    def put(x: jax.Array | None, new: jax.Array | None) -> jax.Array | None:
        return None if x is None or new is None else jnp.where(here, new[..., None], x)

    count = before.count + busy.astype(jnp.int32)
    return replace(
        state,
        cache=cache,
        drawn=Drawn(
            tokens=put(before.tokens, token),  # type: ignore[arg-type]
            count=count,
            done=done | _stopped(settings, token, count, state.limit),
            log_probs=put(before.log_probs, log_probs[0]),
            mean_log_probs=put(before.mean_log_probs, log_probs[1]),
        ),
        token=token,
        position=position + busy.astype(jnp.int32),
    )


def _draw(
    settings: Settings, logits: jax.Array, keys: jax.Array | None, count: jax.Array
) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array | None]]:
    """Draws from logits [members, rows, vocabulary] the `count`-th [rows] tokens of responses."""

    def choose(logits: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, Any]:
        if keys is not None:
            keys = jax.vmap(jax.random.fold_in)(keys, count)
        token = sample(logits, keys, settings.sampling)
        return token, confidence(logits, token) if settings.log_probs else (None, None)

    return jax.vmap(choose)(logits, keys)


def _stopped(settings: Settings, token: jax.Array, count: jax.Array, limit: jax.Array) -> jax.Array:
    """Which responses end with this token [members, rows], their `count`-th [rows]."""
    stop = jnp.isin(token, jnp.asarray(settings.stop_tokens, jnp.int32))
    return stop | (count >= limit)[None]


def _row_keys(settings: Settings, key: jax.Array, members: int, numbers: jax.Array) -> jax.Array:
    """Returns one key per row, [members, rows]."""
    if key.ndim == 1:
        own = key
    else:
        own = jax.random.split(key, members) if settings.population else key[None]
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(fold, in_axes=(0, None))(own, numbers)


def _over_members(settings: Settings, run: Callable[..., Any], weights: Params, *own: Any) -> Any:
    """Runs a member's part of a step; all but the weights has a leading axis [members].

    A single member is not mapped over an axis of one: its matrix products stay plain ones.
    """
    if settings.population:
        return jax.vmap(run)(weights, *own)
    one = jax.tree.map(lambda x: x[0], own)
    return jax.tree.map(lambda x: x[None], run(weights, *one))


def _placed(settings: Settings, state: State) -> State:
    """Holds the state to its place on a mesh, so that every call finds it where it expects it."""
    if settings.placement is None:
        return state
    caches, rest = settings.placement
    places = replace(jax.tree.map(lambda _: rest, state), cache=caches)
    placed: State = jax.lax.with_sharding_constraint(state, places)
    return placed
