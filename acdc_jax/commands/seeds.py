"""`acdc seeds`: train the tiny seed models of the quickstart."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from acdc_jax import flags
from acdc_jax.errors import ConfigError
from acdc_jax.options import check, option
from acdc_jax.quickstart.train import train_seeds
from acdc_jax.runtime.progress import progress

_HELP = """acdc seeds: train a tiny base and eight experts on a synthetic skill language.

They are ordinary Hugging Face folders (base, expert-0 … expert-7), which transformers loads.
`acdc run --seed_models=tiny` trains and caches them by itself.

"""


@dataclasses.dataclass(frozen=True)
class SeedsConfig:
    """The tiny seeds"""

    out: str = option("", "Folder to write; must not exist yet.")
    seed: int = option(0, "PRNG seed of initial weights and examples.", low=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.out:
            raise ConfigError("--out is missing: name the folder to write")


def command(argv: Sequence[str]) -> None:
    """Runs `acdc seeds`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([SeedsConfig]))
        return
    (config,), rest = flags.parse([SeedsConfig], argv)
    flags.no_arguments(rest)
    console = Console()
    with progress(console, True) as advance:
        train_seeds(
            Path(config.out),
            config.seed,
            lambda what, done, total: advance(f"training {what}", done, total),
        )
    console.print(f"{config.out}: base and experts written", markup=False, highlight=False)
