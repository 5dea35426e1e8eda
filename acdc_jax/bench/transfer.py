"""Parents from host memory to the device, beside the link."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from acdc_jax import flags
from acdc_jax.bench.limits import SHAPES, median_seconds
from acdc_jax.bench.table import show
from acdc_jax.bench.weights import ModelBench, random_weights, size_bytes


def main(argv: Sequence[str]) -> None:
    """Runs `acdc bench transfer`: the bandwidth of one large array, and of a model leaf by leaf."""
    (bench,), rest = flags.parse([ModelBench], argv)
    flags.no_arguments(rest)
    device = jax.devices()[0]
    kinds = {memory.kind for memory in device.addressable_memories()}
    kind = "pinned_host" if "pinned_host" in kinds else device.default_memory().kind
    host = jax.sharding.SingleDeviceSharding(device, memory_kind=kind)
    here = jax.sharding.SingleDeviceSharding(device)

    block = jax.device_put(jnp.ones(1 << 28, jnp.int32), host)
    link = block.nbytes / median_seconds(lambda: jax.device_put(block, here), 5)
    weights = random_weights(SHAPES[bench.shape], 0)
    stored = jax.block_until_ready(jax.device_put(weights, host))
    one = size_bytes(weights)
    del weights
    took = median_seconds(lambda: jax.device_put(stored, here), 3)
    show(
        f"{kind} memory to the device",
        ("what", "time", "bandwidth", "of the link"),
        [
            ("one array of 1 GiB", f"{block.nbytes / link:.3f} s", f"{link / 1e9:.1f} GB/s", ""),
            (
                bench.shape,
                f"{took:.3f} s",
                f"{one / took / 1e9:.1f} GB/s",
                f"{one / took / link:.0%}",
            ),
        ],
    )
