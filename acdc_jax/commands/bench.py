"""`acdc bench NAME`: one of the benchmarks in `acdc_jax/bench`."""

import importlib
from collections.abc import Sequence

from acdc_jax import flags
from acdc_jax.errors import ConfigError

BENCHMARKS = {
    "decode": "generation: decoding, prefill, mixed lengths, beside Hugging Face generate",
    "merge": "every crossover, beside the bytes that it must move",
    "mutate": "SVD mutation of one model, beside torch.linalg.svd",
    "archive": "one archive update, beside plain Python",
    "scale": "a whole generation, and its parts, on 1, 2, 4 and 8 devices",
    "transfer": "members from the host's memory to the device, beside its link",
    "store": "an archive under a budget of host memory, beside the disk and the link",
    "checkpoint": "Hugging Face folders and members in and out, beside the disk and the link",
}

_HELP = """acdc bench NAME [--flags]: our figures beside the device's limits and peers, in one run.

  {benchmarks}

`acdc bench NAME --help` lists a benchmark's flags. `--shape=tiny` runs on a CPU in seconds.
"""


def command(argv: Sequence[str]) -> None:
    """Runs `acdc bench`."""
    if not argv or argv[0] in ("-h", "--help"):
        listed = "\n  ".join(f"acdc bench {name:<10} {text}" for name, text in BENCHMARKS.items())
        print(_HELP.format(benchmarks=listed), end="")
        return
    name = argv[0]
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    benchmark = importlib.import_module(f"acdc_jax.bench.{name}")
    if {"-h", "--help"} & set(argv[1:]):
        print(f"acdc bench {name} [--flags]: {BENCHMARKS[name]}\n")
        print(flags.help_text(benchmark.SECTIONS))
        return
    benchmark.main(argv[1:])
