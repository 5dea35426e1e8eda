"""Measure what a device can do at most: copying, matrix products, and the link to its host."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from acdc_jax.models.config import ModelConfig
from acdc_jax.runtime.member_files import HOST_MEMORY

Shape = Literal["qwen2.5-7b", "qwen2.5-1.5b", "smollm2-135m", "small", "tiny"]
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
    "qwen2.5-1.5b": ModelConfig(
        "Qwen2ForCausalLM",
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_layers=28,
        num_heads=12,
        num_kv_heads=2,
        head_dim=128,
        rope_theta=1e6,
        tie_embeddings=True,
        qkv_bias=True,
        max_positions=32_768,
        dtype="bfloat16",
    ),
    "smollm2-135m": ModelConfig(
        "LlamaForCausalLM",
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        rope_theta=1e5,
        rms_norm_eps=1e-5,
        tie_embeddings=True,
        max_positions=8192,
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


class LinkRates(NamedTuple):
    """Bytes per second between a device and page-locked memory of the host."""

    to_host: float
    to_device: float


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the median wall time of a function that returns arrays, in seconds.

    Args:
        run: The function. It is first called once more, to compile and to warm up.
        repeats: Number of timed calls.
    """
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def copy_bandwidth(size: int | None = None) -> float:
    """Return the bytes that the device reads and writes per second while it copies an array.

    The faster of two programs counts: a copy, and the addition of 1, which a compiler cannot
    replace with anything cheaper.

    Args:
        size: Bytes of the array; None for 2 GiB, and 64 MiB on a CPU.
    """
    size = size or (2**26 if jax.default_backend() == "cpu" else 2**31)
    x = jnp.arange(size // 4, dtype=jnp.int32)
    return max(2 * x.nbytes / _seconds_each(jax.jit(run), x) for run in (jnp.copy, lambda x: x + 1))


def matmul_rate(dtype: str) -> float:
    """Return the floating-point operations per second of a product of two square matrices.

    The matrices are 8192 wide, and 512 on a CPU.
    """
    width = 512 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (width, width), jnp.dtype(dtype))
    return 2 * width**3 / _seconds_each(jax.jit(lambda x: x @ x), x)


def link_rates(size: int | None = None) -> LinkRates:
    """Return the rates at which one array travels from the device to the host, and back.

    Args:
        size: Bytes of the array; None for 1 GiB, and 64 MiB on a CPU.
    """
    size = size or (2**26 if jax.default_backend() == "cpu" else 2**30)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    host = device.with_memory_kind(HOST_MEMORY)
    on_device = jax.device_put(jnp.ones(max(size // 4, 1), jnp.int32), device)
    on_host = jax.device_put(on_device, host)
    return LinkRates(
        on_device.nbytes / median_seconds(lambda: jax.device_put(on_device, host), 5),
        on_device.nbytes / median_seconds(lambda: jax.device_put(on_host, device), 5),
    )


def _seconds_each(run: Callable[[jax.Array], jax.Array], x: jax.Array, calls: int = 8) -> float:
    """Return the seconds of one of several calls in a row, so that launching does not count."""

    def run_all() -> jax.Array:
        for _ in range(calls - 1):
            run(x)
        return run(x)

    return median_seconds(run_all, 5) / calls


@dataclass
class Compilations:
    """Functions that were compiled.

    Attributes:
        count: Number of functions.
        seconds: Compilation time, summed over all threads.
    """

    count: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def compilations() -> Iterator[Compilations]:
    """Count the functions that are compiled within the context."""
    compiled = Compilations()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.count += 1
            compiled.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def peak_bytes() -> int | None:
    """Return the most memory that this process ever had on the device; None on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")
