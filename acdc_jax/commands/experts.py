"""`acdc experts`: fine-tune experts from a base."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from acdc_jax import flags
from acdc_jax.files import cache_home
from acdc_jax.options import check, option
from acdc_jax.runtime.compilation_cache import keep_compiled
from acdc_jax.runtime.progress import show_progress
from acdc_jax.training.experts import train_experts
from acdc_jax.training.options import ExpertOptions, TrainOptions
from acdc_jax.training.plan import plan_experts

_HELP = """acdc experts: fine-tune experts, the seeds of a run, from a base.

  acdc experts --base_model=HuggingFaceTB/SmolLM2-135M-Instruct --out=experts
  acdc experts --base_model=my_model --out=experts --lora_rank=16 \\
      --experts=sums=gym:arithmetic,numbers,words=gym:words,-ab,chat=my_conversations.jsonl

The first command trains five experts on questions of reasoning-gym (`pip install
acdc_jax[gym]`), each on some categories, and writes experts/arithmetic, experts/words, …, which
transformers, vLLM and `acdc run --seed_models=…` load. With the same --seed and --gym_families, no
expert sees what `acdc run` measures with --held_out=gym:instances,gym:families.

A line of a JSONL file is a conversation:

  {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}

Conversations are written in the base's chat template and packed into rows; only the tokens of the
answers are learnt. Experts train side by side: on several devices at the same time, on one device
in turn, in one program. All weights are trained, or with --lora_rank adapters, which are written as
PEFT's adapter folders. `acdc run --base_model=BASE --seed_models=experts/a,experts/b` takes both.

The same command resumes a training that was interrupted, and makes the same weights.

"""


@dataclasses.dataclass(frozen=True)
class ShownOptions:
    """The command

    Attributes:
        progress: Whether progress is shown.
        cache_dir: Folder for compiled programs; None is ~/.cache/acdc_jax.
    """

    progress: bool = option(True, "Show progress.")
    cache_dir: str | None = option(
        None,
        "Folder for compiled programs. none: acdc_jax in $XDG_CACHE_HOME or ~/.cache.",
        path=True,
    )

    def __post_init__(self) -> None:
        check(self)


_SECTIONS = (ExpertOptions, TrainOptions, ShownOptions)


def command(argv: Sequence[str]) -> None:
    """Run `acdc experts`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text(_SECTIONS))
        return
    (experts, training, shown), rest = flags.parse(_SECTIONS, argv)
    flags.no_arguments(rest)
    keep_compiled(Path(shown.cache_dir) if shown.cache_dir else cache_home())
    console = Console()

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    plan = plan_experts(experts, training, tell)
    with show_progress(console, shown.progress) as progress:
        folders = train_experts(plan, progress, tell)
    seeds = ",".join(map(str, folders))
    tell(f"Evolve them: acdc run --base_model={experts.base_model} --seed_models={seeds}")
