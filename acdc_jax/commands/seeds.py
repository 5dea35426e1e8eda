"""`acdc seeds NAME OUT`: write a registered set of seed models."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from acdc_jax import flags
from acdc_jax.errors import ConfigError
from acdc_jax.options import check, option
from acdc_jax.runtime.progress import show_progress
from acdc_jax.runtime.seed_models import write_seed_models

_USAGE = "usage: acdc seeds NAME OUT [--seed=0]"
_HELP = """acdc seeds NAME OUT: write a registered set of seed models as Hugging Face folders.

The set `tiny` is the quickstart's: a base and eight experts that are trained on a synthetic skill
language in about two minutes.

  acdc seeds tiny my_seeds

writes my_seeds/base and my_seeds/expert-0 … my_seeds/expert-7, which transformers loads.
`acdc run --seed_models=tiny` makes and caches the same models. A package may register more sets:
see acdc_jax/plugins.py.

"""


@dataclasses.dataclass(frozen=True)
class SeedsOptions:
    """The seed models"""

    seed: int = option(0, "PRNG seed that the models are made from.", low=0)

    def __post_init__(self) -> None:
        check(self)


def command(argv: Sequence[str]) -> None:
    """Run `acdc seeds`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([SeedsOptions]))
        return
    (options,), arguments = flags.parse([SeedsOptions], argv)
    if len(arguments) != 2:
        raise ConfigError(_USAGE)
    name, out = arguments[0], Path(arguments[1])
    with show_progress(Console(), True) as advance:
        folders = write_seed_models(name, out, options.seed, advance)
    print(f"{out}: {', '.join(folder.name for folder in folders)} written")
