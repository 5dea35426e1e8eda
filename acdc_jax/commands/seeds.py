"""`acdc seeds NAME OUT`: write a registered set of seed models."""

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from acdc_jax import flags, plugins
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.models import hf
from acdc_jax.options import check, option
from acdc_jax.runtime.progress import show_progress
from acdc_jax.runtime.seed_models import SeedModels

_USAGE = "usage: acdc seeds NAME OUT [--seed=0]"
_HELP = f"""{_USAGE.removeprefix("usage: ")}: write a registered set of seed models as folders.

`acdc seeds tiny my_seeds` trains the quickstart's base and its eight experts on a synthetic skill
language and writes my_seeds/base, my_seeds/expert-0 … my_seeds/expert-7: ordinary Hugging Face
folders, which transformers loads. `acdc run --seed_models=tiny` makes and caches the same models.
A package may register more sets (see acdc_jax/plugins.py).

"""


@dataclasses.dataclass(frozen=True)
class SeedsConfig:
    """The seed models"""

    seed: int = option(0, "PRNG seed that the models are made from.", low=0)

    def __post_init__(self) -> None:
        check(self)


def command(argv: Sequence[str]) -> None:
    """Run `acdc seeds`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([SeedsConfig]))
        return
    (config,), arguments = flags.parse([SeedsConfig], argv)
    if len(arguments) != 2:
        raise ConfigError(_USAGE)
    name, out = arguments[0], Path(arguments[1])
    make: SeedModels = plugins.load(plugins.SEED_MODELS, name)
    hf.check_vacant(out)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".acdc-") as scratch,
            show_progress(Console(), True) as advance,
        ):
            base, seeds = make(Path(scratch) / "cache", config.seed, advance)
            complete = Path(scratch) / "complete"
            for folder in (base, *seeds):
                shutil.copytree(folder, complete / folder.name)
            complete.replace(out)
    except OSError as error:
        raise AcdcError(f"{out}: cannot write: {error.strerror or error}") from error
    print(f"{out}: {base.name} and {', '.join(seed.name for seed in seeds)} written")
