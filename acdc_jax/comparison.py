"""Repeat a run and its controls over several PRNG seeds, for `acdc compare`.

A control replaces one part of the method by something simpler, and makes as many members as the
run does.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from acdc_jax import multihost
from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.experiment import run_experiment
from acdc_jax.files import write_atomic
from acdc_jax.options import OptionError, check, option
from acdc_jax.report.page import write_page
from acdc_jax.report.summary import summarise
from acdc_jax.runtime.setup import plan_run

Control = Literal["select_only", "random_all_seeds", "module_wise_random", "top_fitness"]


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """The comparison"""

    prng_seeds: tuple[int, ...] = option((0, 1, 2, 3, 4), "PRNG seeds of the runs.", low=0)
    controls: tuple[Control, ...] = option(
        ("select_only", "random_all_seeds", "module_wise_random", "top_fitness"),
        "Controls, each with a run of its own: merges of 2 or 3 seeds without generations "
        "(select_only); of all seeds with random coefficients (random_all_seeds), or with a random "
        "scale per seed and module (module_wise_random); the run with an archive of the fittest "
        "(top_fitness).",
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.prng_seeds:
            raise OptionError(self, "prng_seeds", "must not be empty")
        if len(set(self.prng_seeds)) < len(self.prng_seeds):
            raise OptionError(self, "prng_seeds", "must not repeat a seed")


def control_config(control: Control, config: Config, seeds: int) -> Config:
    """Return the settings of a control.

    Args:
        control: The control.
        config: Settings of the run that it is compared with.
        seeds: Number of the run's seed models.

    Raises:
        ConfigError: The control would have fewer members than a child has parents.
    """
    every_seed = {"min_parents": seeds, "max_parents": seeds}
    make: Mapping[Control, Callable[[], Config]] = {
        "select_only": lambda: _select_only(config),
        "random_all_seeds": lambda: _select_only(
            config, kind="uniform", granularity="global", **every_seed
        ),
        "module_wise_random": lambda: _select_only(
            config, kind="outer", granularity="module", **every_seed
        ),
        "top_fitness": lambda: dataclasses.replace(
            config, selection=dataclasses.replace(config.selection, by="fitness")
        ),
    }
    try:
        return make[control]()
    except OptionError:
        made = _members_made(config)
        raise ConfigError(
            f"--controls: a child of {control} has more parents than the {made} members that a run "
            "makes; raise --init_population or --generations, or leave this control out"
        ) from None


def run_comparison(config: Config, options: CompareOptions, console: Console) -> dict[str, Any]:
    """Run all runs of a comparison to their end, or resume them, and write page and results.

    Args:
        config: Settings of the run. Its directory gets one folder per PRNG seed and control.
        options: PRNG seeds and controls.
        console: Where progress is shown.

    Returns:
        What `results.json` holds: `prng_seeds`; and `sets`, each with `name`, `tasks` (as in the
        last run's `results.json`) and `rows` (see `summarise`).

    Raises:
        AcdcError: See `run_experiment`.
    """
    out = Path(config.run.run_dir)
    # All settings before the first run: a control that cannot work shows at once.
    seeds = plan_run(config, ask_backends=False, try_families=False).seeds
    runs = {"evolved": config} | {
        control: control_config(control, config, seeds) for control in options.controls
    }
    rows: dict[str | None, list[list[Mapping[str, Any]]]] = {}  # of each set, by PRNG seed
    run_dirs: list[Path] = []
    result: dict[str, Any] = {}
    for count, prng_seed in enumerate(options.prng_seeds, 1):
        for name, settings in runs.items():
            console.print(f"PRNG seed {prng_seed}: {name}", markup=False, highlight=False)
            run_dirs.append(out / f"seed{prng_seed}" / name)
            run = dataclasses.replace(settings.run, seed=prng_seed, run_dir=str(run_dirs[-1]))
            settings = dataclasses.replace(settings, run=run)
            results = run_experiment(settings, console, baselines=name == "evolved")
            for table in results["sets"]:
                of_set = rows.setdefault(table["name"], [])
                of_set += [[] for _ in range(count - len(of_set))]
                of_set[-1] += _renamed(table["rows"], name)
        result = {
            "prng_seeds": options.prng_seeds[:count],
            "sets": [
                {
                    "name": table["name"],
                    "tasks": table["tasks"],
                    "rows": summarise(rows[table["name"]]),
                }
                for table in results["sets"]
            ],
        }
        if multihost.is_first():
            write_atomic(out / "results.json", json.dumps(result, indent=1))
    if multihost.is_first():
        write_page(run_dirs, out / "report.html")
    return result


def _renamed(rows: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Return a run's rows, with its task forces under the name of the run."""
    return [{**row, "collective": name} if row["collective"] == "evolved" else row for row in rows]


def _select_only(config: Config, **proposer: Any) -> Config:
    """Return settings that make as many members as the run, all of them merges of seeds."""
    members = _members_made(config)
    run = dataclasses.replace(
        config.run, generations=0, init_population=members, population=members
    )
    return dataclasses.replace(
        config, run=run, proposer=dataclasses.replace(config.proposer, **proposer)
    )


def _members_made(config: Config) -> int:
    """Return how many members a run makes, its seeds included."""
    return config.run.init_population + config.run.children * config.run.generations
