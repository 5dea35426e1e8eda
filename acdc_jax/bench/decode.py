"""`acdc bench decode`: generation beside the device's limits and Hugging Face `generate`.

Decoding reads all weights and every sequence's keys and values once per token: what counts is that
number of bytes, over time, beside the rate at which the device copies memory.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax import flags
from acdc_jax.bench import hf_peer
from acdc_jax.bench.limits import (
    SHAPES,
    Shape,
    compilations,
    copy_bandwidth,
    matmul_rate,
    median_seconds,
    peak_bytes,
)
from acdc_jax.bench.weights import random_weights
from acdc_jax.errors import ConfigError
from acdc_jax.inference import all_reduce_trial, steps
from acdc_jax.inference.buckets import bucket
from acdc_jax.inference.continuous_batching import generate, placement_of
from acdc_jax.inference.memory import parameter_count, token_bytes, weight_bytes
from acdc_jax.inference.sampling import Sampling
from acdc_jax.inference.steps import Prompts, Settings
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import decode_layout
from acdc_jax.options import check, option
from acdc_jax.params import Params

_PARTS = ("hf", "mixed", "decode", "prefill")
_STEPS = 8
_CALLS = 4  # in a row: as in the engine, the device has no time to wait for the host
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class DecodeBench:
    """Generation"""

    shape: Shape = option("qwen2.5-7b", "Shape of the model.")
    parts: str = option(",".join(_PARTS), f"Which of {', '.join(_PARTS)}, comma-separated.")
    batches: str = option("4,64,128,256", "Sequences at once, comma-separated.")
    cache: int = option(1024, "Tokens of every sequence while decoding is timed.", low=16)
    peer_batch: int = option(64, "Sequences at once in Hugging Face generate.", low=1)
    prefill_rows: int = option(32, "Prompts that are read at once.", low=1)
    prefill_length: int = option(512, "Tokens of each.", low=8)
    prompts: int = option(250, "Prompts of the mixed workload.", low=1)
    longest_prompt: int = option(700, "Its longest prompt; the shortest has a seventh.", low=7)
    longest_response: int = option(512, "Its longest response; the shortest is 1/32.", low=32)
    slots: int = option(64, "Sequences at once in the mixed workload.", low=1)

    def __post_init__(self) -> None:
        check(self)
        for part in self.parts.split(","):
            if part not in _PARTS:
                raise ConfigError(f"--parts={self.parts}: {part!r} is none of {', '.join(_PARTS)}")
        if not all(size.isdecimal() and int(size) for size in self.batches.split(",")):
            raise ConfigError(f"--batches={self.batches}: give numbers, such as 4,64")


SECTIONS = (DecodeBench,)


def main(argv: Sequence[str]) -> None:
    """Runs `acdc bench decode` and prints a line per figure."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    for line in measure(bench):
        print(line, flush=True)


def measure(bench: DecodeBench) -> Iterator[str]:
    """The lines, as they are measured."""
    config, parts = SHAPES[bench.shape], bench.parts.split(",")
    peer = None
    if "hf" in parts:  # first: JAX will take the memory
        new = min(64, bench.cache // 4)
        peer = hf_peer.tokens_per_second(config, bench.peer_batch, bench.cache - new, new)
        rate = peer if isinstance(peer, str) else f"{peer:,.0f} tok/s"
        yield f"Hugging Face generate, B={bench.peer_batch}: {rate}"
    small = jax.default_backend() == "cpu"
    yield f"device: {jax.devices()[0].device_kind}"
    bandwidth = copy_bandwidth(2**26 if small else 2**31)
    yield f"copy, bytes read and written: {bandwidth / _GB:,.0f} GB/s"
    matmul = matmul_rate(512 if small else 8192, config.dtype)
    yield f"matrix product, {config.dtype}: {matmul / 1e12:,.1f} TFLOP/s"
    weights = decode_layout(config, random_weights(config, 0))
    jax.block_until_ready(weights)
    # In the order of what they hold: the peak so far is then that of the part at hand.
    ordered: list[tuple[int, Callable[[], str]]] = []
    if "mixed" in parts:
        length = bucket(bench.longest_prompt) + bench.longest_response
        ordered.append((bench.slots * length, partial(_mixed, config, weights, bench, length)))
    if "decode" in parts:
        for batch in map(int, bench.batches.split(",")):
            given = batch, bench.cache, bandwidth, peer, bench.peer_batch
            ordered.append((batch * bench.cache, partial(_decode, config, weights, *given)))
    for _, part in sorted(ordered, key=lambda one: one[0]):
        yield part()
    if "prefill" in parts:
        yield _prefill(config, weights, bench.prefill_rows, bench.prefill_length, matmul)


def step_settings(config: ModelConfig, weights: Mapping[str, Any], max_new_tokens: int) -> Settings:
    """What is compiled: greedy, nothing ends early, no prefix."""
    return Settings(
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
        placement=placement_of(config, weights["embed.weight"].sharding, 1),
    )


def _decode(
    config: ModelConfig,
    weights: Params,
    batch: int,
    length: int,
    bandwidth: float,
    peer: float | str | None,
    peer_batch: int,
) -> str:
    """Steps of sequences that are `length` tokens long, a few less at most."""
    with compilations() as compiled:
        taken, first = step_seconds(config, weights, batch, length)
    read = step_bytes(config, weights, batch, length)
    held = weight_bytes(config) + batch * length * token_bytes(config)
    line = (
        f"decode B={batch}: {taken * 1e3:.2f} ms per step, {batch / taken:,.0f} tok/s, "
        f"{read / taken / _GB:,.0f} GB/s = {read / taken / bandwidth:.1%} of copy; "
        f"compile and first steps {first:.1f} s ({compiled.count} functions, "
        f"{compiled.seconds:.1f} s){_peak(held)}"
    )
    if batch == peer_batch and isinstance(peer, float):
        line += f"; {batch / taken / peer:.1f} × Hugging Face"
    return line


def step_seconds(
    config: ModelConfig, weights: Params, batch: int, length: int
) -> tuple[float, float]:
    """Decodes sequences that are `length` tokens long, a few less at most.

    Args:
        config: the decoder.
        weights: as stored, on a mesh, or from `decode_layout`.
        batch: sequences at once.
        length: tokens of each.

    Returns:
        Wall seconds of one step, and of the first steps with their compilation.
    """
    settings = step_settings(config, weights, 512)
    device = settings.placement[1] if settings.placement else None
    none, key = jnp.zeros((0,), jnp.int32, device=device), jax.random.key(0)
    began = time.perf_counter()
    state = steps.start(settings, 1, batch, length, weights, none, jax.device_put(key, device))
    cancelled = jnp.zeros((1, batch), bool, device=device)
    peers = all_reduce_trial.connected(settings, weights, batch)

    def run() -> Any:
        nonlocal state
        for _ in range(_CALLS):
            drawn = dataclasses.replace(
                state.drawn,
                done=jnp.zeros((1, batch), bool, device=device),
                count=jnp.zeros((batch,), jnp.int32, device=device),
            )
            state = dataclasses.replace(
                state,
                drawn=drawn,
                position=jnp.full((batch,), length - _STEPS, jnp.int32, device=device),
                limit=jnp.full((batch,), 512, jnp.int32, device=device),
            )
            state, drawn = steps.decode(settings, weights, state, cancelled, peers)
        return drawn.tokens

    jax.block_until_ready(run())
    first = time.perf_counter() - began
    return median_seconds(run, 10) / (_CALLS * _STEPS), first


def step_bytes(config: ModelConfig, weights: Params, batch: int, length: int) -> float:
    """Bytes that one of these steps must read: all weights, keys and values."""
    table = 0 if config.tie_embeddings else weights["embed.weight"].nbytes  # few of its rows
    seen = length - (_STEPS - 1) / 2  # of each sequence, on average over the steps
    return weight_bytes(config) - table + batch * seen * token_bytes(config)


def _peak(held: float) -> str:
    """The process's peak so far beside what must be held."""
    peak = peak_bytes()
    if peak is None:
        return ""
    over = peak / held - 1
    return f"; peak memory {peak / _GB:.2f} GB, weights and cache {held / _GB:.2f} GB ({over:+.1%})"


def _prefill(config: ModelConfig, weights: Params, rows: int, length: int, matmul: float) -> str:
    """Prompts of one length, read into their slots."""
    settings = step_settings(config, weights, 16)
    none = jnp.zeros((0,), jnp.int32)
    state = steps.start(settings, 1, rows, length + 16, weights, none, jax.random.key(0))
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

    taken = median_seconds(run, 5) / _CALLS
    inner = parameter_count(config) - sum(
        weights[name].size for name in ("embed.weight", "head.weight") if name in weights
    )
    attention = 2 * length * config.num_layers * config.num_heads * config.head_dim  # causal: half
    work = rows * length * (2 * inner + attention)
    work += rows * 2 * config.vocab_size * config.hidden_size  # logits of the last tokens only
    return (
        f"prefill {rows} × {length}: {taken * 1e3:.1f} ms, {rows * length / taken:,.0f} tok/s, "
        f"{work / taken / 1e12:,.1f} TFLOP/s = {work / taken / matmul:.1%} of a matrix product"
    )


def mixed_lengths(
    count: int, longest_prompt: int, longest_response: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of `count` prompts and of their responses, uniform from a seventh and from 1/32."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(longest_prompt // 7, longest_prompt + 1, count)
    limits = rng.integers(longest_response // 32, longest_response + 1, count)
    # So that every mix has the same longest.
    lengths[0], limits[0] = longest_prompt, longest_response
    return lengths, limits


def _mixed(config: ModelConfig, weights: Params, bench: DecodeBench, length: int) -> str:
    """Prompts and responses of many lengths, `length` at most, beside as many of their means."""

    def run(lengths: np.ndarray, limits: np.ndarray, seed: int) -> float:
        rng = np.random.default_rng(seed)
        prompts = [rng.integers(0, config.vocab_size, n).tolist() for n in lengths]
        began = time.perf_counter()
        written = 0
        for batch in generate(
            config,
            weights,
            prompts,
            stop_tokens=(config.vocab_size,),
            pad_token=0,
            max_new_tokens=limits.tolist(),
            sampling=Sampling(),
            key=jax.random.key(0),
            batch_size=bench.slots,
        ):
            written += sum(map(len, batch.tokens[0]))
        assert written == limits.sum()
        return written / (time.perf_counter() - began)

    def mix(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return mixed_lengths(bench.prompts, bench.longest_prompt, bench.longest_response, seed)

    with compilations() as first:
        began = time.perf_counter()
        run(*mix(0), 0)
        wall = time.perf_counter() - began
    with compilations() as second:
        lengths, limits = mix(1)
        mixed = run(lengths, limits, 1)
    same = np.full_like(lengths, round(lengths.mean())), np.full_like(limits, round(limits.mean()))
    run(same[0][: bench.slots], same[1][: bench.slots], 2)  # compiles
    equal = run(*same, 3)
    held = weight_bytes(config) + bench.slots * length * token_bytes(config)
    return (
        f"mixed lengths, {bench.prompts} prompts in {bench.slots} slots: {mixed:,.0f} tok/s, "
        f"{mixed / equal:.1%} of equal lengths' {equal:,.0f} tok/s; first generation {wall:.1f} s, "
        f"of which {first.seconds:.1f} s compiled {first.count} functions, second "
        f"{second.count}{_peak(held)}"
    )
