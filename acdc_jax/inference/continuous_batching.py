"""Responses to many prompts, from one member or from a population at once.

Sequences enter and leave the slots of one batch as they start and end (continuous batching, Orca,
OSDI 2022). Devices and host overlap: while the devices sample the next few tokens, the host reads
those before, returns responses that have ended, and refills empty slots.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError
from acdc_jax.inference.all_reduce_trial import choose_inboxes
from acdc_jax.inference.buckets import bucket, common_prefix, group_prompts, halve, pad_prompts
from acdc_jax.inference.memory import fitting_slots, parameter_count
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.inference.steps import (
    DecodeState,
    Placement,
    Prompts,
    SampledTokens,
    StepSettings,
    decode,
    init_state,
    prefill,
)
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import mesh_of
from acdc_jax.models.kernels.decode_attention import BLOCK
from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.kernels.options import Kernels, choose_kernels
from acdc_jax.models.kernels.peer_all_reduce import PeerInboxes
from acdc_jax.models.transformer import FusedParams
from acdc_jax.params import Params
from acdc_jax.sharding import sharding

_STEPS = 8  # tokens per call of `decode`; an empty slot waits for the end of a call, and one more
_PREFILL_TOKENS = 8192  # most tokens of prompts per call of `prefill`; bounds its activations
# Multiplications of one call of `prefill`. Larger calls use a GPU no better; smaller ones let a
# prompt enter sooner. A tiny model reads all prompts at once.
_PREFILL_WORK = 1.0e13
# Parameters of all members together up to which padding takes less time than compiling for another
# length, which costs a GPU as much as 1e15 multiplications.
_FEW_PARAMETERS = 4.0e9

Ends = npt.NDArray[np.int64]


class PromptError(AcdcError, ValueError):
    """A prompt is empty or leaves no room for a response."""


@dataclass(frozen=True)
class GenerateOptions:
    """How to generate responses.

    Attributes:
        stop_tokens: Ids that end a response.
        pad_token: Id that fills rows; never attended to.
        batch_size: Most sequences at once, per member; fewer if memory does not suffice.
        sampling: How to sample tokens.
        population: Number of members, if every leaf of the weights has a leading axis of members;
            None: one member without that axis.
        prefix: Number of tokens that prompts usually begin with in common. The keys and values of
            the part that they do have in common are computed once.
        stopped: Whether the tokens sampled so far already end a response, for instance by a stop
            string. Called every few tokens.
        log_probs: Whether to return log-probabilities.
        numbers: A number for each prompt, below 2³¹, from which its draws follow; None: its index.
        least_prompts: Shapes are chosen as for at least so many prompts, where padding takes less
            time than compiling for others. So later calls find what the first one compiled.
        least_length: Likewise, tokens of the longest prompt.
        kernels: Which kernels may run; None: all that the devices support.
    """

    stop_tokens: tuple[int, ...]
    pad_token: int
    batch_size: int
    sampling: Sampling = GREEDY
    population: int | None = None
    prefix: int = 0
    stopped: Callable[[tuple[int, ...]], bool] | None = None
    log_probs: bool = False
    numbers: Sequence[int] | None = None
    least_prompts: int = 0
    least_length: int = 0
    kernels: Kernels | None = None


@dataclass(frozen=True)
class Batch:
    """Responses that ended at about the same time.

    Attributes:
        indices: Indices of their prompts.
        tokens: By member, then by prompt as in `indices`: the response's tokens, without the stop
            token. A response that a stop string ended extends to the end of the string, or a bit
            further.
        log_probs: As `tokens`, of every token before temperature and truncation, with the stop
            token's at the end; None if not requested.
        mean_log_probs: As `log_probs`, means over the vocabulary.
        non_finite: Members with a logit that was not finite in one of these responses. It means
            nothing and is empty.
    """

    indices: list[int]
    tokens: list[list[list[int]]]
    log_probs: list[list[list[float]]] | None = None
    mean_log_probs: list[list[list[float]]] | None = None
    non_finite: tuple[int, ...] = ()


def generate_tokens(
    config: ModelConfig,
    params: Params | FusedParams,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    key: jax.Array,
    options: GenerateOptions,
) -> Iterator[Batch]:
    """Respond to prompts. Responses are yielded as they end, while others continue.

    Prompts are checked in this call, before anything is computed.

    A response depends on the key, the member and the prompt's number, not on the other prompts (up
    to the rounding of matrix products of different sizes).

    Args:
        config: Shape of the decoder.
        params: Weights of one member, stored or fused; or of a population, stored.
        prompts: Token ids, at least one each.
        max_new_tokens: Longest response in tokens, of all prompts or of each.
        key: Typed PRNG key. Member m of a population samples from `split(key, population)[m]`,
            token n of the prompt with number i from `fold_in(fold_in(., i), n)`. Or [members] keys,
            one per member.
        options: How to generate.

    Returns:
        An iterator that yields the response to every prompt once.

    Raises:
        PromptError: A prompt, named by its index, is empty or leaves no room for the response.
        ValueError: `max_new_tokens` or `batch_size` is not positive.
        AcdcError: Memory does not suffice for a single sequence.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    _check(config, prompts, limits, options.batch_size)
    if not prompts:
        return iter(())
    request = _Request(config, params, prompts, limits, key, options)
    plan = _plan(request)
    return _generate(request, plan)


@dataclass(frozen=True)
class _Request:
    """Arguments of `generate_tokens`, with one limit per prompt."""

    config: ModelConfig
    params: Params | FusedParams
    prompts: Sequence[Sequence[int]]
    limits: Sequence[int]
    key: jax.Array
    options: GenerateOptions

    @property
    def members(self) -> int:
        return self.options.population or 1


class _PromptGroup(NamedTuple):
    """Prompts that are prefilled in one call, as [rows, length] tokens."""

    indices: list[int]
    rows: int
    length: int


@dataclass(frozen=True)
class _Plan:
    """What is fixed before the first call: static settings, sizes, and groups of prompts."""

    settings: StepSettings
    slots: int
    length: int
    groups: Sequence[_PromptGroup]
    inboxes: PeerInboxes | None


def _plan(request: _Request) -> _Plan:
    """Choose settings, the number and length of slots, and the order of the prompts."""
    config, options, prompts = request.config, request.options, request.prompts
    prefix = min(options.prefix, common_prefix(prompts), min(map(len, prompts)) - 1)
    weights = request.params["embed.weight"]
    placement = placement_of(config, weights.sharding, request.members)
    kernels = choose_kernels(weights.dtype) if options.kernels is None else options.kernels
    settings = StepSettings(
        model=config,
        stop_tokens=tuple(options.stop_tokens),
        pad_token=options.pad_token,
        max_new_tokens=max(request.limits),
        sampling=options.sampling,
        population=options.population is not None,
        prefix=prefix,
        steps=_STEPS,
        early_exit=jax.default_backend() == "cpu",
        log_probs=options.log_probs,
        placement=placement,
        kernels=replace(kernels, heads=head_sharding_of(placement)),
    )
    parameters = request.members * parameter_count(config)
    coarse = parameters <= _FEW_PARAMETERS and jax.default_backend() != "cpu"
    count, longest = len(prompts), max(map(len, prompts))
    if coarse:
        count, longest = max(count, options.least_prompts), max(longest, options.least_length)
    longest = bucket(longest - prefix, coarse=coarse)
    length = prefix + longest + max(request.limits)
    multiple = BLOCK if length > 4 * BLOCK else 8  # the attention kernel reads blocks
    length = -(-length // multiple) * multiple
    slots = fitting_slots(
        config,
        halve(options.batch_size, count),
        length,
        request.members,
        weights.sharding.addressable_devices,
        _cache_shards(placement),
        _PREFILL_TOKENS,
    )

    def rows(padded: int) -> int:
        by_work = int(_PREFILL_WORK / (parameters * padded))
        return max(1, min(slots, _PREFILL_TOKENS // padded, by_work))

    # For a tiny model, a few columns of padding cost less than a group that is half empty, and than
    # compiling for another length. A large model is compiled for every bucket, so that the next
    # generation, whose lengths are a little different, finds what it needs.
    groups = group_prompts(
        [len(prompt) - prefix for prompt in prompts],
        rows,
        mixed=rows(longest) == slots,
        coarse=coarse,
    )
    return _Plan(
        settings,
        slots,
        length,
        [_PromptGroup(indices, rows(padded), padded) for indices, padded in groups],
        choose_inboxes(settings, request.params, slots),
    )


def _generate(request: _Request, plan: _Plan) -> Iterator[Batch]:
    """Run `generate_tokens` after its checks."""
    settings = plan.settings
    prefix = np.asarray(request.prompts[0][: settings.prefix], np.int32)
    key = _replicate(plan, request.key)
    state = init_state(
        settings,
        request.members,
        plan.slots,
        plan.length,
        request.params,
        _replicate(plan, prefix),
        key,
    )
    _compile(request, plan, state, key)
    waiting = deque(plan.groups)
    owners: list[int | None] = [None] * plan.slots  # the prompt of each slot
    ends = np.full((request.members, plan.slots), -1)  # where `stopped` cut responses
    calls: deque[tuple[list[int | None], SampledTokens]] = deque()  # not read by the host yet
    while waiting or any(owner is not None for owner in owners):
        free = [slot for slot, owner in enumerate(owners) if owner is None]
        while waiting and len(free) >= len(waiting[0].indices):
            group = waiting.popleft()
            slots, free = free[: len(group.indices)], free[len(group.indices) :]
            prompts = _pad_group(request, plan, group, slots)
            with jax.transfer_guard("disallow"):
                state = prefill(settings, request.params, state, prompts, key)
            for slot, index in zip(slots, group.indices, strict=True):
                owners[slot] = index
            ends[:, slots] = -1
        cancelled = _replicate(plan, ends >= 0)
        with jax.transfer_guard("disallow"):
            state, sampled = decode(settings, request.params, state, cancelled, plan.inboxes)
        calls.append((list(owners), sampled))
        if len(calls) == 1:
            continue
        # Read the call before, while this one runs. Its slots may have changed owners since.
        owners_then, sampled = calls.popleft()
        slot_of = {
            slot: index
            for slot, index in enumerate(owners_then)
            if index is not None and index == owners[slot]
        }
        batch = _collect_finished(request, settings, jax.device_get(sampled), slot_of, ends)
        if batch is not None:
            for slot, index in slot_of.items():
                if index in batch.indices:
                    owners[slot] = None
            yield batch


def _compile(request: _Request, plan: _Plan, state: DecodeState, key: jax.Array) -> None:
    """Compile the calls of all shapes side by side, unless they are compiled already."""
    settings, first_of = plan.settings, {group[1:]: group for group in plan.groups}
    lowered = [
        prefill.lower(
            settings,
            request.params,
            state,
            _pad_group(request, plan, group, range(len(group.indices))),
            key,
        )
        for group in first_of.values()
    ]
    cancelled = _replicate(plan, np.zeros((request.members, plan.slots), bool))
    lowered.append(decode.lower(settings, request.params, state, cancelled, plan.inboxes))
    with ThreadPoolExecutor(len(lowered), "compile") as threads:
        list(threads.map(lambda program: program.compile(), lowered))


def _pad_group(
    request: _Request, plan: _Plan, group: _PromptGroup, slots: Sequence[int]
) -> Prompts:
    """Return the arrays of a group; padding rows go to a slot beyond the last."""
    suffixes = [request.prompts[i][plan.settings.prefix :] for i in group.indices]
    numbers = request.options.numbers or range(len(request.prompts))
    padding = group.rows - len(group.indices)

    def column(values: Sequence[int], fill: int) -> jax.Array:
        return _replicate(plan, np.asarray([*values, *[fill] * padding], np.int32))

    tokens = pad_prompts(suffixes, group.rows, group.length, plan.settings.pad_token)
    return Prompts(
        tokens=_replicate(plan, tokens),
        lengths=column([len(suffix) for suffix in suffixes], 1),
        slots=column(slots, plan.slots),
        limits=column([request.limits[i] for i in group.indices], 1),
        numbers=column([numbers[i] for i in group.indices], 0),
    )


def _replicate(plan: _Plan, x: npt.NDArray[Any] | jax.Array) -> jax.Array:
    """Put an array on all devices of the member."""
    placement = plan.settings.placement
    replicated: jax.Array = jax.device_put(x, placement.replicated if placement else None)
    return replicated


def _collect_finished(
    request: _Request,
    settings: StepSettings,
    sampled: SampledTokens,
    prompt_of: dict[int, int],
    ends: Ends,
) -> Batch | None:
    """Return the responses that have ended for all members; None if there are none.

    Args:
        request: The request.
        settings: Static settings.
        sampled: What a call sampled, on the host.
        prompt_of: Slot → index of the prompt that it held then and still holds.
        ends: [members, slots], where responses were cut, or -1; updated.
    """
    members = range(request.members)
    stopped = request.options.stopped
    if stopped is not None:
        for slot, m in product(prompt_of, members):
            response = tuple(sampled.tokens[m, slot, : int(sampled.count[slot])].tolist())
            if not sampled.done[m, slot] and ends[m, slot] < 0 and stopped(response):
                ends[m, slot] = len(response)
    over = np.all(np.asarray(sampled.done) | (ends >= 0), axis=0)
    finished = {slot: index for slot, index in prompt_of.items() if over[slot]}
    if not finished:
        return None
    stops = np.isin(sampled.tokens, settings.stop_tokens)

    def cut(values: jax.Array | None, *, include_stop: bool) -> Any:
        """Return each member's responses, cut where they end."""
        if values is None:
            return None
        responses: list[list[list[Any]]] = [[] for _ in members]
        for m, (slot, index) in product(members, finished.items()):
            end = int(ends[m, slot])
            if not sampled.finite[m, slot]:
                end = int(include_stop)
            elif end < 0:
                stop = stops[m, slot]
                end = int(stop.argmax()) + include_stop if stop.any() else request.limits[index]
            responses[m].append(values[m, slot, :end].tolist())
        return responses

    return Batch(
        list(finished.values()),
        cut(sampled.tokens, include_stop=False),
        cut(sampled.log_probs, include_stop=True),
        cut(sampled.mean_log_probs, include_stop=True),
        tuple(m for m in members if not np.all(sampled.finite[m, list(finished)])),
    )


def _check(
    config: ModelConfig, prompts: Sequence[Sequence[int]], limits: Sequence[int], batch_size: int
) -> None:
    """Raise if a request cannot be decoded."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    if min(limits, default=1) < 1:
        raise ValueError(f"max_new_tokens must be positive, not {min(limits)}")
    for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        room = config.max_positions - limit
        if not prompt:
            raise PromptError(f"prompt {i} is empty")
        if len(prompt) > room:
            raise PromptError(
                f"prompt {i} has {len(prompt)} tokens; with max_new_tokens {limit}, the model's "
                f"{config.max_positions} positions leave room for {max(room, 0)}"
            )


def placement_of(
    config: ModelConfig, weights: jax.sharding.Sharding, members: int
) -> Placement | None:
    """Return the shardings of a decoding state; None if the weights are not on a mesh.

    Args:
        config: Shape of the decoder.
        weights: Sharding of one of the weights.
        members: Number of members that decode together.
    """
    mesh = mesh_of(weights)
    if mesh is None:
        return None
    shape = (members, 1, 1, config.num_kv_heads, config.head_dim)
    cache = sharding(mesh, ("population", None, None, "kv_heads", None), shape)
    return Placement(cache, NamedSharding(mesh, PartitionSpec()))


def head_sharding_of(placement: Placement | None) -> HeadSharding | None:
    """Return how the heads of the cache are sharded; None: one device."""
    if placement is None or placement.cache.mesh.size == 1:
        return None
    assert isinstance(placement.cache.mesh, Mesh)
    return HeadSharding(placement.cache.mesh, placement.cache.spec[3])


def _cache_shards(placement: Placement | None) -> int:
    """Return the number of shards of keys and values."""
    if placement is None:
        return 1
    mesh, spec = placement.cache.mesh, placement.cache.spec
    return math.prod(mesh.shape[axis] for axis in spec if axis is not None)
