"""`acdc bench NAME`: run one of the benchmarks in `acdc_jax/bench`."""

import importlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from acdc_jax import flags
from acdc_jax.errors import ConfigError


class Benchmark(NamedTuple):
    """What the help says about a benchmark.

    Attributes:
        summary: What is measured, in a few words.
        details: What exactly is measured, and what each figure is compared with.
        duration: How long it takes at the default shape.
    """

    summary: str
    details: str
    duration: str


BENCHMARKS = {
    "decode": Benchmark(
        "tokens per second of one member: decoding, prefill, mixed lengths",
        "Times decoding steps at several batch sizes, the prefill of a batch of prompts, and a "
        "workload of prompts and responses of many lengths. Decoding reads all weights and the KV "
        "cache at every step: its bytes per second are compared with the rate at which the device "
        "copies memory, and its tokens per second with `generate` of Hugging Face transformers, if "
        "torch is installed. Prefill is compared with the rate of a large matrix product, and "
        "mixed lengths with equal lengths of the same mean.",
        "several minutes; about one more for Hugging Face (--parts without hf)",
    ),
    "merge": Benchmark(
        "seconds per merge of two parents, for every method",
        "Times every merge method on two random parents and a base. The bytes that a method must "
        "read and write at least, divided by its time, are compared with the rate at which the "
        "device copies memory.",
        "a few minutes, most of them for DELLA",
    ),
    "mutate": Benchmark(
        "seconds per SVD mutation of one member",
        "Times the mutation of every projection by noise on its singular values, and compares it "
        "with `torch.linalg.svd` on the same device, if torch is installed: one matrix of each "
        "shape is decomposed, and its time multiplied by the number of such matrices.",
        "about a minute",
    ),
    "archive": Benchmark(
        "seconds per archive update",
        "Times dominated novelty search, from skills on the host to the selected members, and "
        "compares it with plain numpy, which scores 50 candidates and is extrapolated to all. "
        "Both must agree.",
        "less than a minute",
    ),
    "transfer": Benchmark(
        "GB per second of a member from host memory to the device",
        "Copies a member from page-locked memory to the device, weight by weight, and compares the "
        "rate with that of one array of 1 GiB.",
        "less than a minute",
    ),
    "store": Benchmark(
        "GB per second of an archive that does not fit into memory",
        "Makes and saves members, fetches random parents under a budget of host memory, and checks "
        "every bit. Rates are compared with those of a plain file and of one array on the link "
        "between host and device; the peak of host memory is compared with the budget, and the "
        "command fails if it is higher.",
        "several minutes; writes all members to --folder (16 × 15 GB) as far as there is room",
    ),
    "checkpoint": Benchmark(
        "GB per second of Hugging Face folders and members, written and read",
        "Exports a Hugging Face folder and saves a member, and reads both back, from the disk and "
        "from the page cache. Rates are compared with those of a plain file and of one array on "
        "the link between host and device. Every bit must come back.",
        "a few minutes; needs 18 GB in --folder",
    ),
    "scale": Benchmark(
        "a whole generation, and its parts, on 1, 2, 4 and 8 devices",
        "Times a generation of random members as a run does it (breeding, decoding 250 tasks, "
        "scoring in the sandbox, selection), decoding and breeding alone, and members to and from "
        "the disk; counts the collective operations of the compiled programs. Each figure is "
        "compared with that of one device (speed-up and efficiency), and with the rates at which "
        "the device copies memory and the host feeds it.",
        "about ten minutes for each number of devices; --parts selects some of them",
    ),
}

_HELP = """acdc bench NAME [--flags]: measure this machine, and compare with its physical limits

  {benchmarks}

Each benchmark measures a limit of the device, its link or its disk in the same run, and prints it
beside its figures. The default shape is that of Qwen2.5-7B and needs a GPU or TPU with 80 GB;
`--shape=tiny` runs on a CPU in a minute, to see that everything works.

`acdc bench NAME --help` explains a benchmark, how long it takes, and its flags.
"""


def command(argv: Sequence[str]) -> None:
    """Run `acdc bench`.

    Args:
        argv: The benchmark's name and its flags.

    Raises:
        ConfigError: The benchmark or one of its flags is unknown.
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = (f"acdc bench {name:<10} {text.summary}" for name, text in BENCHMARKS.items())
        print(_HELP.format(benchmarks="\n  ".join(lines)), end="")
        return
    name = argv[0]
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    benchmark = importlib.import_module(f"acdc_jax.bench.{name}")
    if {"-h", "--help"} & set(argv[1:]):
        text = BENCHMARKS[name]
        print(f"acdc bench {name} [--flags]: {text.summary}\n")
        print(textwrap.fill(text.details, 92))
        print(textwrap.fill(f"Duration on one H100: {text.duration}.", 92), end="\n\n")
        print(flags.help_text(benchmark.SECTIONS))
        return
    benchmark.main(argv[1:])
