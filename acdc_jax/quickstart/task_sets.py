"""The families that the quickstart starts from, and those that it is measured on."""

from pathlib import Path

import jax

from acdc_jax.prng import host_rng
from acdc_jax.quickstart.language import split
from acdc_jax.quickstart.source import write_draft
from acdc_jax.tasks.task import Draft
from acdc_jax.tasks.task_sets import families_in


def seed_families(prng_seed: int = 0, options: object = None) -> list[Draft]:
    """Return eight hand-written families, one for each expert; they are the same for every seed."""
    del prng_seed, options  # They are fixed.
    return families_in(Path(__file__).with_name("families"))


def held_out_families(prng_seed: int, options: object = None, *, instances: int = 4) -> list[Draft]:
    """Return the 200 families that a run of this PRNG seed is measured on.

    Args:
        prng_seed: The run's; it decides which operations and pairs of them are held out.
        options: The run's flags; none matters here.
        instances: Instances of each family.

    Returns:
        60 families of one operation, then 140 of two.
    """
    del options
    rng = host_rng(jax.random.key(prng_seed))
    held_out = split(prng_seed).held_out
    return [write_draft(spec, "novel", None, instances, rng) for spec in held_out]
