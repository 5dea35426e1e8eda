"""`acdc compare`: a run and its controls over several PRNG seeds, in one table."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from acdc_jax import flags, multihost
from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.experiment import run_experiment
from acdc_jax.files import write_atomic
from acdc_jax.options import option
from acdc_jax.report.page import write_page
from acdc_jax.report.summary import differences, summarise
from acdc_jax.report.tables import results_table
from acdc_jax.runtime.setup import join_processes
from acdc_jax.runtime.sources import read_sources

_HELP = """acdc compare: repeat a run over several PRNG seeds, with every control, into one table.

Takes the flags of `acdc run`; --run_dir gets a folder per seed and control, and results.json with
the mean and the 95 % interval of every row. Goes on where it was.

"""


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """The comparison"""

    prng_seeds: str = option("0,1,2,3,4", "PRNG seeds, comma separated.")
    controls: str = option(
        "select_only,random_all_seeds,module_wise_random,top_fitness",
        "Controls that get runs of their own, comma separated; empty for none.",
    )

    def __post_init__(self) -> None:
        unknown = [name for name in self.control_names() if name not in CONTROLS]
        if unknown:
            raise ConfigError(
                f"--controls: unknown {unknown[0]!r}; choose from {', '.join(CONTROLS)}"
            )
        seeds = self.prng_seed_list()
        if not seeds:
            raise ConfigError("--prng_seeds is empty")
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"--prng_seeds={self.prng_seeds}: must not repeat one")

    def control_names(self) -> list[str]:
        """Names in the order given."""
        return [name for name in self.controls.split(",") if name]

    def prng_seed_list(self) -> list[int]:
        """Seeds in the order given; refuses what is no whole number."""
        try:
            return [int(part) for part in self.prng_seeds.split(",") if part.strip()]
        except ValueError:
            raise ConfigError(f"--prng_seeds={self.prng_seeds}: not whole numbers") from None


def _select_only(config: Config, **proposer: Any) -> Config:
    """As many members as the run makes, all of them merges of seeds, and no generations."""
    made = config.run.init_population + config.run.children * config.run.generations
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, generations=0, init_population=made, population=made),
        proposer=dataclasses.replace(config.proposer, **proposer),
    )


CONTROLS: dict[str, Callable[[Config, int], Config]] = {
    "select_only": lambda config, seeds: _select_only(config),
    "random_all_seeds": lambda config, seeds: _select_only(
        config,
        kind="uniform",
        granularity="global",
        min_parents=seeds,
        max_parents=seeds,
    ),
    "module_wise_random": lambda config, seeds: _select_only(
        config,
        kind="outer",
        granularity="module",
        min_parents=seeds,
        max_parents=seeds,
    ),
    "top_fitness": lambda config, seeds: dataclasses.replace(
        config, selection=dataclasses.replace(config.selection, by="fitness")
    ),
}
"""Control → the settings of its run, from the run's own and the number of its seed models."""


def command(argv: Sequence[str]) -> None:
    """Runs `acdc compare`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([CompareConfig, Config]))
        return
    (compare, config), rest = flags.parse([CompareConfig, Config], argv)
    flags.no_arguments(rest)
    join_processes(config)
    console = Console(quiet=not multihost.is_first())
    out = Path(config.run.run_dir)
    measured: list[list[Mapping[str, Any]]] = []
    finished: list[Path] = []
    for seed in compare.prng_seed_list():
        rows: list[Mapping[str, Any]] = []
        seeds = 0
        for name in ("evolved", *compare.control_names()):
            console.print(f"PRNG seed {seed}: {name}", markup=False, highlight=False)
            settings = config if name == "evolved" else CONTROLS[name](config, seeds)
            run = dataclasses.replace(
                settings.run, seed=seed, run_dir=str(out / f"seed{seed}" / name)
            )
            results = run_experiment(
                dataclasses.replace(settings, run=run), console, baselines=name == "evolved"
            )
            finished.append(Path(run.run_dir))
            seeds = len(read_sources(Path(run.run_dir)).seeds)
            rows += [
                row | {"collective": name} if row["collective"] == "evolved" else row
                for row in results["rows"]
            ]
        measured.append(rows)
        summary = summarise(measured)
        result = {"prng_seeds": compare.prng_seed_list()[: len(measured)], "rows": summary}
        if multihost.is_first():
            write_atomic(out / "results.json", json.dumps(result, indent=1))
    title = f"mean over {len(measured)} PRNG seeds ± half of the 95 % interval"
    console.print(results_table(summary, title))
    console.print(differences(summary), markup=False, highlight=False)
    page = write_page(finished, out / "report.html")
    console.print(f"{page}: open it in a browser", markup=False, highlight=False, soft_wrap=True)
