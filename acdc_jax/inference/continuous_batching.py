"""Responses to many prompts, from one member or from a population at once.

Sequences enter and leave the slots of one batch as they come and end (continuous batching, Orca,
OSDI 2022). Devices and host take turns without waiting: while the devices draw the next few tokens,
the host looks at those before, hands out what has ended, and fills slots that are empty.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError
from acdc_jax.inference.all_reduce_trial import connected
from acdc_jax.inference.buckets import bucket, common_prefix, grouped, halved, padded
from acdc_jax.inference.memory import fitting_slots, parameter_count
from acdc_jax.inference.sampling import Sampling
from acdc_jax.inference.steps import Drawn, Prompts, Settings, State, decode, prefill, start
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import mesh_of
from acdc_jax.models.kernels.decode_attention import BLOCK
from acdc_jax.models.kernels.peer_all_reduce import Peers
from acdc_jax.params import Params
from acdc_jax.sharding import sharding

_STEPS = 8  # tokens per call of `decode`: empty slots wait for a call's end, and one more
_READING = 8192  # most tokens of prompts read at once: what they take beside the cache
# Multiplications of one call of `prefill`. Larger calls use a GPU no better; smaller ones let a
# prompt enter sooner. A tiny model reads all prompts at once.
_READING_WORK = 1.0e13

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Responses to some of the prompts, those that ended about the same time.

    Attributes:
        indices: Which prompts these are.
        tokens: By member, then by prompt as in `indices`: the response's tokens, without the stop
            token. One that a stop string ended goes on to the end of the string, or a bit further.
        log_probs: As `tokens`, of every token before temperature and truncation, the stop token's
            at the end; None if not asked for.
        mean_log_probs: The same, of the whole vocabulary's mean.
    """

    indices: list[int]
    tokens: list[list[list[int]]]
    log_probs: list[list[list[float]]] | None = None
    mean_log_probs: list[list[list[float]]] | None = None


def generate(
    config: ModelConfig,
    weights: Params,
    prompts: Sequence[Sequence[int]],
    *,
    stop_tokens: tuple[int, ...],
    pad_token: int,
    max_new_tokens: int | Sequence[int],
    sampling: Sampling,
    key: jax.Array,
    batch_size: int,
    population: int | None = None,
    prefix: int = 0,
    stopped: Callable[[tuple[int, ...]], bool] | None = None,
    log_probs: bool = False,
) -> Iterator[Batch]:
    """Responds to prompts; responses come as they end, while others go on.

    Prompts are checked at the call, before anything is computed.

    A response depends on the key, the member and the prompt's index, not on those beside it (up to
    the rounding of matrix products of different sizes).

    Args:
        config: The decoder.
        weights: One member's weights, as stored or from `decode_layout`, or, for a population,
            every leaf as stored with a leading axis.
        prompts: Token ids, at least one each.
        stop_tokens: Ids that end a response.
        pad_token: Id that fills rows up; never looked at.
        max_new_tokens: Longest response, in tokens; of all prompts, or of each.
        sampling: How tokens are drawn.
        key: Typed PRNG key. Member m of a population draws from `split(key, population)[m]`, the
            n-th token of prompt i from `fold_in(fold_in(., i), n)`. Or one key for each member.
        batch_size: Most sequences at once, per member; fewer where memory ends.
        population: Number of members, or None for one member without the leading axis.
        prefix: How many tokens prompts usually begin with in common; as far as these do, their keys
            and values are computed once.
        stopped: Whether tokens drawn so far already end a response (by a stop string, say). Looked
            at every few tokens.
        log_probs: Whether to return log-probabilities.

    Returns:
        Every prompt once.

    Raises:
        AcdcError: A prompt that is empty or leaves no room for the response, by its index; or not
            even one sequence fits into memory.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    _check(config, prompts, limits, batch_size)
    if not prompts:
        return iter(())
    shared = min(prefix, common_prefix(prompts), min(map(len, prompts)) - 1)
    members = population or 1
    held = weights["embed.weight"].sharding
    placement = placement_of(config, held, members)
    settings = Settings(
        model=config,
        stop_tokens=tuple(stop_tokens),
        pad_token=pad_token,
        max_new_tokens=max(limits),
        sampling=sampling,
        population=population is not None,
        prefix=shared,
        steps=_STEPS,
        early_exit=jax.default_backend() == "cpu",
        log_probs=log_probs,
        placement=placement,
    )
    longest = bucket(max(map(len, prompts)) - shared)
    length = shared + longest + max(limits)
    multiple = BLOCK if length > 4 * BLOCK else 8  # a kernel reads blocks
    length = -(-length // multiple) * multiple
    wanted = halved(batch_size, len(prompts))
    slots = fitting_slots(
        config, wanted, length, members, held.addressable_devices, _spread(placement), _READING
    )
    parameters = members * parameter_count(config)

    def rows(padded: int) -> int:
        return max(1, min(slots, _READING // padded, int(_READING_WORK / (parameters * padded))))

    # Of a tiny model a few columns of padding cost less than a group that is half empty, and than
    # compiling for its length. A large one is compiled for every length that there is, so that the
    # next generation, whose lengths are a little different, finds what it needs.
    own = [len(prompt) - shared for prompt in prompts]
    groups = grouped(own, rows, mixed=rows(longest) == slots)
    peers = connected(settings, weights, slots)
    job = _Job(settings, weights, prompts, limits, key, members, slots, length, stopped, peers)
    return _generate(job, deque((rows(padded), padded, indices) for indices, padded in groups))


@dataclass(frozen=True)
class _Job:
    """What `_generate` works on; see `generate`."""

    settings: Settings
    weights: Params
    prompts: Sequence[Sequence[int]]
    limits: Sequence[int]
    key: jax.Array
    members: int
    slots: int
    length: int
    stopped: Callable[[tuple[int, ...]], bool] | None
    peers: Peers | None


def _generate(job: _Job, waiting: deque[tuple[int, int, list[int]]]) -> Iterator[Batch]:
    """`generate` after its checks.

    Args:
        job: What to do.
        waiting: Rows, padded length and prompts' indices of every group that is read at once.
    """
    prefix = np.asarray(job.prompts[0][: job.settings.prefix], np.int32)
    job = replace(job, key=_put(job, job.key))
    state = start(
        job.settings,
        job.members,
        job.slots,
        job.length,
        job.weights,
        _put(job, prefix),
        job.key,
    )
    owners: list[int | None] = [None] * job.slots  # which prompt's response is in a slot
    ends = np.full((job.members, job.slots), -1)  # where `stopped` cut responses
    flights: deque[tuple[list[int | None], Drawn]] = deque()  # calls not looked at yet
    while waiting or any(owner is not None for owner in owners):
        free = [slot for slot, owner in enumerate(owners) if owner is None]
        while waiting and len(free) >= len(waiting[0][2]):
            rows, padded_length, indices = waiting.popleft()
            taken, free = free[: len(indices)], free[len(indices) :]
            state = _enter(job, state, indices, taken, rows, padded_length)
            for slot, index in zip(taken, indices, strict=True):
                owners[slot] = index
            ends[:, taken] = -1
        cancelled = _put(job, ends >= 0)
        with jax.transfer_guard("disallow"):
            state, drawn = decode(job.settings, job.weights, state, cancelled, job.peers)
        flights.append((list(owners), drawn))
        if len(flights) == 1:
            continue
        # The call before, while this one runs. A slot may have been emptied since it was made.
        then, drawn = flights.popleft()
        finished = _look(job, jax.device_get(drawn), then, owners, ends)
        if finished is not None:
            yield finished
    # The last call's memory is free again when it is over; another cache may be wanted next.
    jax.block_until_ready(state.position)


def _enter(
    job: _Job,
    state: State,
    indices: Sequence[int],
    slots: Sequence[int],
    rows: int,
    length: int,
) -> State:
    """Reads prompts into empty slots; rows that are left over go to a slot beyond the last."""
    prefix, count = job.settings.prefix, len(indices)
    own = [job.prompts[i][prefix:] for i in indices]

    def column(values: Sequence[int], rest: int) -> jax.Array:
        return _put(job, np.asarray([*values, *[rest] * (rows - count)], np.int32))

    prompts = Prompts(
        tokens=_put(job, padded(own, rows, length, job.settings.pad_token)),
        lengths=column([len(prompt) for prompt in own], 1),
        slots=column(slots, job.slots),
        limits=column([job.limits[i] for i in indices], 1),
        numbers=column(indices, 0),
    )
    with jax.transfer_guard("disallow"):
        entered: State = prefill(job.settings, job.weights, state, prompts, job.key)
    return entered


def _put(job: _Job, x: npt.NDArray[Any] | jax.Array) -> jax.Array:
    """Puts what all devices look at on all of them."""
    placement = job.settings.placement
    placed: jax.Array = jax.device_put(x, placement[1] if placement else None)
    return placed


def _look(
    job: _Job,
    drawn: Drawn,
    then: Sequence[int | None],
    owners: list[int | None],
    ends: Places,
) -> Batch | None:
    """Takes responses that have ended out of their slots, once all members' have.

    Args:
        job: What is done.
        drawn: On the host.
        then: Which prompts were in the slots.
        owners: Which are now; changed.
        ends: Where responses were cut; changed.
    """
    here = {
        slot: index
        for slot, index in enumerate(then)
        if index is not None and index == owners[slot]
    }
    if job.stopped is not None:
        for slot, m in product(here, range(job.members)):
            written = tuple(drawn.tokens[m, slot, : int(drawn.count[slot])].tolist())
            if not drawn.done[m, slot] and ends[m, slot] < 0 and job.stopped(written):
                ends[m, slot] = len(written)
    over = np.all(np.asarray(drawn.done) | (ends >= 0), axis=0)
    finished = {slot: index for slot, index in here.items() if over[slot]}
    if not finished:
        return None
    for slot in finished:
        owners[slot] = None
    stop = np.isin(drawn.tokens, job.settings.stop_tokens)

    def taken(values: jax.Array | None, *, stop_too: bool) -> Any:
        """Each member's responses, cut where they end."""
        if values is None:
            return None
        found: list[list[list[Any]]] = [[] for _ in range(job.members)]
        for m, (slot, index) in product(range(job.members), finished.items()):
            end = int(ends[m, slot])
            if end < 0:
                stopped = bool(stop[m, slot].any())
                end = (
                    int(stop[m, slot].argmax()) + (stopped and stop_too)
                    if stopped
                    else job.limits[index]
                )
            found[m].append(values[m, slot, :end].tolist())
        return found

    return Batch(
        list(finished.values()),
        taken(drawn.tokens, stop_too=False),
        taken(drawn.log_probs, stop_too=True),
        taken(drawn.mean_log_probs, stop_too=True),
    )


def _check(
    config: ModelConfig, prompts: Sequence[Sequence[int]], limits: Sequence[int], batch_size: int
) -> None:
    """Refuses what cannot be decoded."""
    if batch_size < 1 or min(limits, default=1) < 1:
        raise AcdcError(
            f"max_new_tokens and batch_size must be positive, not {min(limits, default=1)}, "
            f"{batch_size}"
        )
    for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        room = config.max_positions - limit
        if not prompt:
            raise AcdcError(f"prompt {i} is empty")
        if len(prompt) > room:
            raise AcdcError(
                f"prompt {i} has {len(prompt)} tokens; with max_new_tokens {limit} the "
                f"model's {config.max_positions} positions leave room for {max(room, 0)}"
            )


def placement_of(
    config: ModelConfig, weights: jax.sharding.Sharding, members: int
) -> tuple[NamedSharding, NamedSharding] | None:
    """Where keys and values [members, slots, tokens, kv_heads, head_dim] and the rest lie.

    Args:
        config: The decoder.
        weights: Where one of the weights lies.
        members: Members that decode together.

    Returns:
        None where the weights are not spread over a mesh.
    """
    mesh = mesh_of(weights)
    if mesh is None:
        return None
    shape = (members, 1, 1, config.num_kv_heads, config.head_dim)
    caches = sharding(mesh, ("population", None, None, "kv_heads", None), shape)
    return caches, NamedSharding(mesh, PartitionSpec())


def _spread(placement: tuple[NamedSharding, NamedSharding] | None) -> int:
    """Over how many devices the keys and values are spread."""
    if placement is None:
        return 1
    mesh, spec = placement[0].mesh, placement[0].spec
    return math.prod(mesh.shape[axis] for axis in spec if axis is not None)
