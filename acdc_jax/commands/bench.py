"""`acdc bench NAME`: run one of the benchmarks in `acdc_jax/bench`."""

import importlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from acdc_jax import flags
from acdc_jax.errors import ConfigError


class BenchmarkDescription(NamedTuple):
    """The help text of a benchmark.

    Attributes:
        summary: What is measured, in a few words.
        limits: What it is compared with, in a few words.
        duration: Estimate for one H100 at the default shape.
        details: What exactly is measured, and how the figures compare.
    """

    summary: str
    limits: str
    duration: str
    details: str


BENCHMARKS = {
    "decode": BenchmarkDescription(
        "tokens per second of one member: decoding, prefill, mixed lengths",
        "copy bandwidth, matrix products, Hugging Face generate",
        "five minutes",
        "Times decoding steps at several batch sizes, the prefill of a batch of prompts, and a "
        "workload of prompts and responses of many lengths. Decoding reads all weights and the KV "
        "cache at every step: its bytes per second are compared with the rate at which the device "
        "copies memory, and its tokens per second with `generate` of Hugging Face transformers, if "
        "torch is installed. Prefill is compared with the rate of a large matrix product, and "
        "mixed lengths with equal lengths of the same mean.",
    ),
    "breed": BenchmarkDescription(
        "seconds for the children of a generation",
        "copy bandwidth",
        "a few minutes, most of them for compilation",
        "Times the merge, finiteness check and content hash of all children, one by one and in one "
        "program, and with the SVD mutation. The bytes that the merges read and write, divided by "
        "the rate at which the device copies memory, are the least time. For a large model, use "
        "--notogether.",
    ),
    "merge": BenchmarkDescription(
        "seconds per merge of two parents, for every method",
        "copy bandwidth",
        "five minutes, most of them for DELLA",
        "Times every merge method on two random parents and a base. The bytes that a method must "
        "read and write at least, divided by its time, are compared with the rate at which the "
        "device copies memory.",
    ),
    "mutate": BenchmarkDescription(
        "seconds per SVD mutation of one member",
        "torch.linalg.svd",
        "two minutes",
        "Times the mutation of every projection by noise on its singular values, and compares it "
        "with `torch.linalg.svd` on the same device, if torch is installed: one matrix of each "
        "shape is decomposed, and its time multiplied by the number of such matrices.",
    ),
    "experts": BenchmarkDescription(
        "tokens per second of fine-tuning experts",
        "transformers with torch.compile, matrix products",
        "five minutes, most of them for the compilation of both",
        "Times steps of `acdc experts` on random conversations: packed rows, loss on the answers, "
        "AdamW with float32 master weights; one expert, and several side by side on one device. "
        "Tokens are those of conversations, without padding. The peer trains one expert on the "
        "same conversations in bfloat16 with float32 master weights, if torch is installed: a "
        "plain loop with padded batches, one whose batches are grouped by length, and a careful "
        "one with packed rows and logits of the answers only. Floating-point operations are those "
        "of the matrix products with weights, without attention, and are compared with the rate "
        "of a large matrix product.",
    ),
    "archive": BenchmarkDescription(
        "seconds per archive update",
        "numpy",
        "one minute",
        "Times dominated novelty search, from skills on the host to the selected members, and "
        "compares it with plain numpy, which scores 50 candidates and is extrapolated to all. "
        "Both must agree.",
    ),
    "transfer": BenchmarkDescription(
        "GB per second of a member from host memory to the device",
        "one large array on the same link",
        "one minute",
        "Copies a member from page-locked memory to the device, weight by weight, and compares the "
        "rate with that of one array of 1 GiB.",
    ),
    "store": BenchmarkDescription(
        "GB per second of an archive that does not fit into memory",
        "the disk, the link, and the budget of host memory",
        "ten minutes, up to 243 GB of disk",
        "Makes and saves members, fetches random parents under a budget of host memory, and checks "
        "every bit. Rates are compared with those of a plain file and of one array on the link "
        "between host and device; the peak of host memory is compared with the budget, and the "
        "command fails if it is higher.",
    ),
    "checkpoint": BenchmarkDescription(
        "GB per second of Hugging Face folders and members, written and read",
        "the disk and the link",
        "five minutes, 18 GB of disk",
        "Exports a Hugging Face folder and saves a member, and reads both back, from the disk and "
        "from the page cache. Rates are compared with those of a plain file and of one array on "
        "the link between host and device. Every bit must come back.",
    ),
    "scale": BenchmarkDescription(
        "a whole generation, and its parts, on 1, 2, 4 and 8 devices",
        "one device, copy bandwidth, the link",
        "ten minutes per number of devices",
        "Times a generation of random members as a run does it (breeding, decoding 250 tasks, "
        "scoring in the sandbox, selection), decoding and breeding alone, and members to and from "
        "the disk; counts the collective operations of the compiled programs. Each figure is "
        "compared with that of one device (speed-up and efficiency), and with the rates at which "
        "the device copies memory and the host feeds it.",
    ),
}

_HELP = """acdc bench NAME [--flags]: measure this machine, against its limits and other libraries

  {benchmarks}

Each benchmark measures what it is compared with in the same run, and prints both. "The link" is the
one between the device and page-locked memory of the host. Durations are estimates for one H100.
The default shape is that of Qwen2.5-7B and needs a device with 80 GB; `--shape=tiny` runs on a CPU
in about a minute, to see that everything works: its figures mean nothing.

`acdc bench NAME --help` explains a benchmark and lists its flags.
"""


def command(argv: Sequence[str]) -> None:
    """Run `acdc bench`.

    Args:
        argv: The benchmark's name and its flags.

    Raises:
        ConfigError: The benchmark or one of its flags is unknown.
    """
    if not argv or argv[0] in ("-h", "--help"):
        entries = (
            f"{name:<10} {text.summary}\n{' ' * 13}against {text.limits}; {text.duration}"
            for name, text in BENCHMARKS.items()
        )
        print(_HELP.format(benchmarks="\n  ".join(entries)), end="")
        return
    name = argv[0]
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    benchmark = importlib.import_module(f"acdc_jax.bench.{name}")
    if {"-h", "--help"} & set(argv[1:]):
        text = BENCHMARKS[name]
        print(f"acdc bench {name} [--flags]: {text.summary}\n")
        print(textwrap.fill(text.details, 92), end="\n\n")
        print(f"Duration on one H100, estimated: {text.duration}\n")
        print(flags.help_text(benchmark.SECTIONS))
        return
    benchmark.main(argv[1:])
