"""`acdc bench decode`: generation, compared with device limits and Hugging Face `generate`.

Decoding reads all weights, and the keys and values of every sequence, once per token. Its bytes per
second are therefore compared with the rate at which the device copies memory.
"""

import dataclasses
import time
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax import flags
from acdc_jax.bench import hf_peer
from acdc_jax.bench.limits import (
    SHAPES,
    compilations,
    copy_bandwidth,
    matmul_rate,
    median_seconds,
    peak_bytes,
)
from acdc_jax.bench.table import Figures
from acdc_jax.bench.weights import ModelBench, random_weights
from acdc_jax.inference import all_reduce_trial, steps
from acdc_jax.inference.buckets import bucket
from acdc_jax.inference.continuous_batching import (
    GenerateOptions,
    generate_tokens,
    head_sharding_of,
    placement_of,
)
from acdc_jax.inference.memory import parameter_count, token_bytes, weight_bytes
from acdc_jax.inference.sampling import Sampling
from acdc_jax.inference.steps import Prompts, StepSettings
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.kernels.options import choose_kernels
from acdc_jax.models.transformer import FusedParams
from acdc_jax.options import option
from acdc_jax.params import Params

Part = Literal["hf", "mixed", "decode", "prefill"]
_STEPS = 8  # decoded per call
_CALLS = 4  # in a row, as in the engine: the device never waits for the host
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class DecodeBench(ModelBench):
    """Generation"""

    parts: tuple[Part, ...] = option(
        typing.get_args(Part),
        "What to time: hf (Hugging Face generate), mixed (prompts and responses of many lengths), "
        "decode, prefill.",
    )
    batches: tuple[int, ...] = option(
        (4, 64, 128, 256), "Numbers of sequences that are decoded at once.", low=1
    )
    cache: int = option(1024, "Tokens of every sequence while decoding is timed.", low=16)
    peer_batch: int = option(64, "Sequences at once in Hugging Face generate.", low=1)
    prefill_rows: int = option(32, "Prompts in a prefill.", low=1)
    prefill_length: int = option(512, "Tokens of each of them.", low=8)
    prompts: int = option(250, "Prompts of the mixed workload.", low=1)
    longest_prompt: int = option(
        700, "Tokens of its longest prompt; the shortest has a seventh of them.", low=7
    )
    longest_response: int = option(
        512, "Tokens of its longest response; the shortest has 1/32 of them.", low=32
    )
    slots: int = option(64, "Sequences at once in the mixed workload.", low=1)


SECTIONS = (DecodeBench,)


@dataclasses.dataclass(frozen=True)
class DeviceLimits:
    """What the figures are compared with.

    Attributes:
        copy: Bytes that the device reads and writes per second while it copies memory.
        matmul: Floating-point operations per second of a large matrix product.
        peer: Tokens per second of Hugging Face `generate`, or None.
    """

    copy: float
    matmul: float
    peer: float | None


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench decode`."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    figures = Figures("what", "speed", "limit", "first call (compiled)", "peak memory")
    _measure(bench, figures)
    figures.show(f"generation at {bench.shape}")


def _measure(bench: DecodeBench, figures: Figures) -> None:
    """Add a row for each part of the benchmark."""
    config = SHAPES[bench.shape]
    limits = _measure_limits(bench, config, figures)
    weights = fuse_weights(config, random_weights(config, 0), donate=True)
    jax.block_until_ready(weights)
    # In the order of the memory that they need: the peak so far is then that of the last part.
    runs: list[tuple[int, Callable[[], tuple[str, ...]]]] = []
    if "mixed" in bench.parts:
        length = bucket(bench.longest_prompt) + bench.longest_response
        runs.append((bench.slots * length, partial(_time_mixed, bench, config, weights, length)))
    if "decode" in bench.parts:
        for batch in bench.batches:
            time_batch = partial(_time_decoding, bench, config, weights, batch, limits)
            runs.append((batch * bench.cache, time_batch))
    for _, run in sorted(runs, key=lambda item: item[0]):
        figures.add(*run())
    if "prefill" in bench.parts:
        figures.add(*_time_prefill(bench, config, weights, limits))


def _measure_limits(bench: DecodeBench, config: ModelConfig, figures: Figures) -> DeviceLimits:
    """Measure, and print, what the other figures are compared with."""
    peer = None
    if "hf" in bench.parts:  # first: JAX will allocate the memory
        new = min(64, bench.cache // 4)
        peer = hf_peer.tokens_per_second(config, bench.peer_batch, bench.cache - new, new)
        rate = "torch is not installed" if peer is None else f"{peer:,.0f} tok/s"
        figures.add(f"Hugging Face generate, B={bench.peer_batch}", rate, "", "", "")
    limits = DeviceLimits(copy_bandwidth(), matmul_rate(config.dtype), peer)
    figures.add("copy, bytes read and written", f"{limits.copy / _GB:,.0f} GB/s", "", "", "")
    figures.add(
        f"matrix product, {config.dtype}", f"{limits.matmul / 1e12:,.1f} TFLOP/s", "", "", ""
    )
    return limits


def step_settings(
    config: ModelConfig, weights: Params | FusedParams, max_new_tokens: int
) -> StepSettings:
    """Return settings of greedy steps in which nothing ends early, without a prefix."""
    embedding = weights["embed.weight"]
    placement = placement_of(config, embedding.sharding, 1)
    return StepSettings(
        model=config,
        stop_tokens=(config.vocab_size,),  # never drawn
        pad_token=0,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(),
        population=False,
        prefix=0,
        steps=_STEPS,
        early_exit=False,
        log_probs=False,
        placement=placement,
        kernels=choose_kernels(embedding.dtype, head_sharding_of(placement)),
    )


def _time_decoding(
    bench: DecodeBench, config: ModelConfig, weights: FusedParams, batch: int, limits: DeviceLimits
) -> tuple[str, ...]:
    """Return the row of decoding `batch` sequences."""
    length = bench.cache
    with compilations() as compiled:
        seconds, first = step_seconds(config, weights, batch, length)
    rate = step_bytes(config, weights, batch, length) / seconds
    limit = f"{rate / _GB:,.0f} GB/s = {rate / limits.copy:.1%} of copy"
    if batch == bench.peer_batch and limits.peer is not None:
        limit += f"; {batch / seconds / limits.peer:.1f} × Hugging Face"
    return (
        f"decode B={batch}, cache {length}",
        f"{batch / seconds:,.0f} tok/s, {seconds * 1e3:.2f} ms per step",
        limit,
        f"{first:.1f} s ({compiled.count} in {compiled.seconds:.1f} s)",
        _peak_memory(weight_bytes(config) + batch * length * token_bytes(config)),
    )


def step_seconds(
    config: ModelConfig, weights: Params | FusedParams, batch: int, length: int
) -> tuple[float, float]:
    """Time decoding steps of sequences that have `length` tokens, or up to 7 fewer.

    Args:
        config: Shape of the model.
        weights: As stored, sharded over a mesh, or from `fuse_weights`.
        batch: Number of sequences.
        length: Tokens of each.

    Returns:
        Wall seconds of one step, and of the first steps with their compilation.
    """
    settings = step_settings(config, weights, 512)
    device = settings.placement.replicated if settings.placement else None
    none, key = jnp.zeros((0,), jnp.int32, device=device), jax.random.key(0)
    start = time.perf_counter()
    state = steps.init_state(settings, 1, batch, length, weights, none, jax.device_put(key, device))
    cancelled = jnp.zeros((1, batch), bool, device=device)
    inboxes = all_reduce_trial.choose_inboxes(settings, weights, batch)

    def run() -> Any:
        nonlocal state
        for _ in range(_CALLS):
            drawn = dataclasses.replace(
                state.sampled,
                done=jnp.zeros((1, batch), bool, device=device),
                count=jnp.zeros((batch,), jnp.int32, device=device),
            )
            state = dataclasses.replace(
                state,
                sampled=drawn,
                position=jnp.full((batch,), length - _STEPS, jnp.int32, device=device),
                limit=jnp.full((batch,), 512, jnp.int32, device=device),
            )
            state, drawn = steps.decode(settings, weights, state, cancelled, inboxes)
        return drawn.tokens

    jax.block_until_ready(run())
    first = time.perf_counter() - start
    return median_seconds(run, 10) / (_CALLS * _STEPS), first


def step_bytes(config: ModelConfig, weights: FusedParams, batch: int, length: int) -> float:
    """Return the bytes that one step of `step_seconds` must read: all weights, keys and values."""
    # An embedding that is not the output head is read only at the rows of the tokens.
    unread = 0 if config.tie_embeddings else weights["embed.weight"].nbytes
    tokens = length - (_STEPS - 1) / 2  # of each sequence, on average over the steps
    return weight_bytes(config) - unread + batch * tokens * token_bytes(config)


def _peak_memory(needed: float) -> str:
    """Return the peak of the device's memory so far, relative to the bytes of weights and cache."""
    if (peak := peak_bytes()) is None:
        return ""
    return f"{peak / _GB:.2f} GB, {peak / needed - 1:+.1%} of weights and cache"


def _time_prefill(
    bench: DecodeBench, config: ModelConfig, weights: FusedParams, limits: DeviceLimits
) -> tuple[str, ...]:
    """Return the row of reading prompts of one length into their slots."""
    rows, length = bench.prefill_rows, bench.prefill_length
    settings = step_settings(config, weights, 16)
    none = jnp.zeros((0,), jnp.int32)
    state = steps.init_state(settings, 1, rows, length + 16, weights, none, jax.random.key(0))
    prompts = Prompts(
        tokens=jax.random.randint(jax.random.key(1), (rows, length), 0, config.vocab_size),
        lengths=jnp.full((rows,), length, jnp.int32),
        slots=jnp.arange(rows, dtype=jnp.int32),
        limits=jnp.full((rows,), 16, jnp.int32),
        numbers=jnp.arange(rows, dtype=jnp.int32),
    )
    key = jax.random.key(0)

    def run() -> Any:
        nonlocal state
        for _ in range(_CALLS):
            state = steps.prefill(settings, weights, state, prompts, key)
        return state.token

    seconds = median_seconds(run, 5) / _CALLS
    tables = ("embed.weight", "head.weight")
    layers = parameter_count(config) - sum(
        weights[path].size for path in tables if path in weights.leaves
    )
    attention = 2 * length * config.num_layers * config.num_heads * config.head_dim  # causal: half
    work = rows * length * (2 * layers + attention)
    work += rows * 2 * config.vocab_size * config.hidden_size  # logits of the last tokens only
    rate = work / seconds
    return (
        f"prefill {rows} × {length}",
        f"{rows * length / seconds:,.0f} tok/s, {seconds * 1e3:.1f} ms",
        f"{rate / 1e12:,.1f} TFLOP/s = {rate / limits.matmul:.1%} of a matrix product",
        "",
        "",
    )


def mixed_lengths(
    count: int, longest_prompt: int, longest_response: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw the tokens of prompts and of their responses.

    Args:
        count: Number of prompts.
        longest_prompt: Tokens of the longest prompt; uniform from a seventh of it.
        longest_response: Tokens of the longest response; uniform from 1/32 of it.
        seed: PRNG seed.

    Returns:
        Lengths of prompts and of responses, [count] int64 each. The first of each is the longest.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(longest_prompt // 7, longest_prompt + 1, count)
    limits = rng.integers(longest_response // 32, longest_response + 1, count)
    lengths[0], limits[0] = longest_prompt, longest_response
    return lengths, limits


def _time_mixed(
    bench: DecodeBench, config: ModelConfig, weights: FusedParams, length: int
) -> tuple[str, ...]:
    """Return the row of the mixed workload, and of as many sequences of the mean lengths.

    Args:
        bench: The flags.
        config: Shape of the model.
        weights: From `fuse_weights`.
        length: Tokens of the longest sequence.
    """
    mixes = [
        mixed_lengths(bench.prompts, bench.longest_prompt, bench.longest_response, seed)
        for seed in range(2)
    ]
    run = partial(_tokens_per_second, config, weights, bench.slots)
    with compilations() as first:
        start = time.perf_counter()
        run(*mixes[0], 0)
        first_s = time.perf_counter() - start
    with compilations() as second:
        mixed = run(*mixes[1], 1)
    lengths, limits = (np.full_like(tokens, round(tokens.mean())) for tokens in mixes[1])
    run(lengths[: bench.slots], limits[: bench.slots], 2)  # compiles
    equal = run(lengths, limits, 3)
    return (
        f"mixed lengths, {bench.prompts} prompts in {bench.slots} slots",
        f"{mixed:,.0f} tok/s",
        f"{mixed / equal:.1%} of equal lengths' {equal:,.0f} tok/s",
        f"{first_s:.1f} s ({first.count} in {first.seconds:.1f} s), second run {second.count}",
        _peak_memory(weight_bytes(config) + bench.slots * length * token_bytes(config)),
    )


def _tokens_per_second(
    config: ModelConfig,
    weights: FusedParams,
    slots: int,
    lengths: npt.NDArray[np.int64],
    limits: npt.NDArray[np.int64],
    seed: int,
) -> float:
    """Generate responses to random prompts, prefill included.

    Args:
        config: Shape of the model.
        weights: From `fuse_weights`.
        slots: Sequences at once.
        lengths: [prompts] int64; tokens of the prompts.
        limits: [prompts] int64; tokens of the responses.
        seed: PRNG seed of the prompts.
    """
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, config.vocab_size, tokens).tolist() for tokens in lengths]
    start, count = time.perf_counter(), 0
    options = GenerateOptions((config.vocab_size,), pad_token=0, batch_size=slots)
    key = jax.random.key(0)
    for batch in generate_tokens(config, weights, prompts, limits.tolist(), key, options):
        count += sum(map(len, batch.tokens[0]))
    assert count == limits.sum()
    return count / (time.perf_counter() - start)
