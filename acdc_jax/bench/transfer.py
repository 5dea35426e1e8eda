"""Parents from host memory to the device, compared with the link."""

from collections.abc import Sequence

import jax

from acdc_jax import flags
from acdc_jax.bench.limits import SHAPES, link_rates, median_seconds
from acdc_jax.bench.table import show
from acdc_jax.bench.weights import ModelBench, random_weights, size_bytes
from acdc_jax.runtime.member_files import HOST_MEMORY

SECTIONS = (ModelBench,)


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench transfer`: the bandwidth of one large array, and of a model leaf by leaf."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    size = 2**30
    link = link_rates(size)[1]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    host = here.with_memory_kind(HOST_MEMORY)
    weights = random_weights(SHAPES[bench.shape], 0)
    stored = jax.block_until_ready(jax.device_put(weights, host))
    one = size_bytes(weights)
    del weights
    took = median_seconds(lambda: jax.device_put(stored, here), 3)
    show(
        "page-locked memory to the device",
        ("what", "time", "bandwidth", "of the link"),
        [
            ("one array of 1 GiB", f"{size / link:.3f} s", f"{link / 1e9:.1f} GB/s", ""),
            (
                bench.shape,
                f"{took:.3f} s",
                f"{one / took / 1e9:.1f} GB/s",
                f"{one / took / link:.0%}",
            ),
        ],
    )
