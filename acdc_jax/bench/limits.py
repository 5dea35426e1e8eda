"""What the device can do at most, measured; and how to measure."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from acdc_jax.models.config import ModelConfig
from acdc_jax.runtime.member_files import HOST_MEMORY

Shape = Literal["qwen2.5-7b", "small", "tiny"]
SHAPES: dict[Shape, ModelConfig] = {
    "qwen2.5-7b": ModelConfig(
        "Qwen2ForCausalLM",
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        rope_theta=1e6,
        qkv_bias=True,
        max_positions=32_768,
        dtype="bfloat16",
    ),
    "small": ModelConfig(
        "Qwen2ForCausalLM",
        vocab_size=32_000,
        hidden_size=896,
        intermediate_size=4864,
        num_layers=10,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        rope_theta=1e6,
        qkv_bias=True,
        max_positions=32_768,
        dtype="bfloat16",
    ),
    "tiny": ModelConfig(
        "Qwen2ForCausalLM",
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        qkv_bias=True,
        max_positions=2048,
    ),
}


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Wall seconds of `run`, which returns arrays; once before, to compile and to warm up."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def copy_bandwidth(size: int) -> float:
    """Bytes read and written per second while `size` bytes are copied on the device.

    A copy by XLA, and a sum with a constant (which a compiler cannot turn into something else):
    the faster of the two. Enough copies at once that launching them does not count.
    """
    x = jnp.arange(size // 4, dtype=jnp.int32)
    return max(2 * x.nbytes / _seconds_each(jax.jit(run), x) for run in (jnp.copy, lambda x: x + 1))


def matmul_rate(width: int, dtype: str) -> float:
    """Floating-point operations per second of a square matrix product."""
    x = jax.random.normal(jax.random.key(0), (width, width), jnp.dtype(dtype))
    return 2 * width**3 / _seconds_each(jax.jit(lambda x: x @ x), x)


def link_rates(size: int) -> tuple[float, float]:
    """Bytes per second of one array from the device to page-locked host memory, and back."""
    there = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    here = there.with_memory_kind(HOST_MEMORY)
    block = jax.device_put(jnp.ones(max(size // 4, 1), jnp.int32), there)
    stored = jax.device_put(block, here)
    return (
        block.nbytes / median_seconds(lambda: jax.device_put(block, here), 5),
        block.nbytes / median_seconds(lambda: jax.device_put(stored, there), 5),
    )


def _seconds_each(run: Callable[[jax.Array], jax.Array], x: jax.Array, times: int = 8) -> float:
    """Seconds of one of several calls in a row: the device has no time to wait for the host."""

    def row() -> jax.Array:
        for _ in range(times - 1):
            run(x)
        return run(x)

    return median_seconds(row, 5) / times


@dataclass
class Compilations:
    """What was compiled: how many functions, and how long it took."""

    count: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def compilations() -> Iterator[Compilations]:
    """Counts what is compiled meanwhile."""
    found = Compilations()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.count += 1
            found.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def peak_bytes() -> int | None:
    """The most memory that was ever taken on the device; None where nobody counts (a CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")
