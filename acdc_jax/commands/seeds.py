"""`acdc seeds NAME OUT`: write a registered set of seeds. `acdc seeds check`: do seeds merge?"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from acdc_jax import flags, multihost
from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.options import check, option
from acdc_jax.report.seed_tables import models_table, pairs_table
from acdc_jax.runtime.member_text import text_codec
from acdc_jax.runtime.progress import show_progress
from acdc_jax.runtime.seed_check import compare_weights, measure_weights
from acdc_jax.runtime.seed_descriptions import compare_descriptions, name_models
from acdc_jax.runtime.seed_models import write_seed_models
from acdc_jax.runtime.setup import find_folders, join_processes

_USAGE = "usage: acdc seeds NAME OUT [--seed=0], or acdc seeds check BASE SEED… [--flags]"
_HELP = """acdc seeds check BASE SEED…: tell whether seeds merge, without merging them.

  acdc seeds check Qwen/Qwen2.5-0.5B Qwen/Qwen2.5-0.5B-Instruct Qwen/Qwen2.5-Coder-0.5B-Instruct
  acdc seeds check --flagfile=my_run.flags

Takes folders and Hub ids, or the flags of `acdc run`, of which those of the seed models and of
decoding count. Prints how far each seed is from the base and from the other seeds, the cosines of
their task vectors (seed - base) by module, differing licences, chat templates, special tokens and
stop tokens, and what a run will reconcile. Weights are read one at a time on the first device, so
that even large models fit. The status is 0 if a run accepts the models, and 1, with the reason in
one line, if not.

  distance    relative to the base's norm. 0: the same weights. Models trained apart: above 1.
  cosine of   of the projections, between seed and base. Near 1: a fine-tune. Near 0: trained
  weights     apart, and not to be merged.
  cosine of   near 0: the seeds changed different directions, and their changes add up. Near 1:
  task        they learnt alike, and a merge gains little. Negative: they undo each other.
  vectors

acdc seeds NAME OUT: write a registered set of seed models as Hugging Face folders.

The set `tiny` is the quickstart's: a base and eight experts that are trained on a synthetic skill
language in about two minutes.

  acdc seeds tiny my_seeds

writes my_seeds/base and my_seeds/expert-0 … my_seeds/expert-7, which transformers loads.
`acdc run --seed_models=tiny` makes and caches the same models. A package may register more sets:
see acdc_jax/plugins.py.

"""


@dataclasses.dataclass(frozen=True)
class SeedsOptions:
    """acdc seeds NAME OUT"""

    seed: int = option(0, "PRNG seed that the models are made from.", low=0)

    def __post_init__(self) -> None:
        check(self)


def command(argv: Sequence[str]) -> None:
    """Run `acdc seeds`."""
    if "--help" in argv or "-h" in argv:
        seeds = dataclasses.replace(flags.sections_of(Config)["seeds"], title="acdc seeds check")
        print(_HELP + flags.help_text([seeds, SeedsOptions]))
        return
    if argv[:1] == ["check"]:
        (config,), names = flags.parse([Config], argv[1:])
        _check(_with_models(config, names))
        return
    (options,), arguments = flags.parse([SeedsOptions], argv)
    if len(arguments) != 2:
        raise ConfigError(_USAGE)
    name, out = arguments[0], Path(arguments[1])
    with show_progress(Console(), True) as advance:
        folders = write_seed_models(name, out, options.seed, advance)
    print(f"{out}: {', '.join(folder.name for folder in folders)} written")


def _with_models(config: Config, names: Sequence[str]) -> Config:
    """Return the settings with models that are named as arguments.

    Raises:
        ConfigError: Flags name models, too, or there is only one.
    """
    if not names:
        return config
    if config.seeds.seed_models or config.seeds.base_model:
        raise ConfigError(
            f"{names[0]}: --base_model and --seed_models name the models already; drop one or the "
            "other"
        )
    if len(names) == 1:
        raise ConfigError(_USAGE)
    base, *seeds = names
    seed_options = dataclasses.replace(config.seeds, base_model=base, seed_models=tuple(seeds))
    return dataclasses.replace(config, seeds=seed_options)


def _check(config: Config) -> None:
    """Print what is to be known before merging.

    Raises:
        AcdcError: A run would refuse the models.
    """
    join_processes(config)
    console, notes = Console(), list[str]()
    shown = config.run.progress and multihost.is_first()
    with show_progress(Console(stderr=True), shown) as progress:
        folders = find_folders(config, progress, notes.append)
        if not multihost.is_first():
            return
        text_codec(folders.seeds, config.decode, folders.model.vocab_size, folders.orders)
        models = name_models(config.seeds, folders)
        differences = compare_descriptions(models, folders, config.decode)
        squares = measure_weights(folders, progress)
    console.print(models_table(models, folders, squares), "")
    if len(folders.seeds) > 1:
        console.print(pairs_table(squares), "")
    sections = {
        "Reconciled by a run": notes,
        "Other differences": differences,
        "Findings about the weights": compare_weights(models, squares),
    }
    print_plain = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    for title, lines in sections.items():
        text = "\n".join([f"{title}:", *(f"- {line}" for line in lines)])
        print_plain(text if lines else f"{title}: none")
    print_plain("A run accepts these models.")
