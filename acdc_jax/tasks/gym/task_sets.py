"""What `--scientist=gym`, `--seed_families=gym` and `--held_out=gym|gym_families` name."""

from collections.abc import Callable, Sequence

import numpy as np

from acdc_jax.tasks.gym import levels as gym_levels
from acdc_jax.tasks.gym.catalogue import Family, choose_families
from acdc_jax.tasks.gym.questions import NoQuestionsError
from acdc_jax.tasks.gym.scientist import GymScientist
from acdc_jax.tasks.gym.split import Split, split_families
from acdc_jax.tasks.gym.write import write_draft
from acdc_jax.tasks.task import Draft, Kind

_HELD_OUT_LEVELS = 3  # of each family: the lowest, and as many above
_QUESTIONS = 2


def split(prng_seed: int) -> Split:
    """Return which families and questions a run with a PRNG seed may use."""
    return split_families(choose_families(()), prng_seed)


def scientist(options: object, prng_seed: int) -> GymScientist:
    """Return the scientist of a PRNG seed, which decides what is held out.

    Args:
        options: The scientist's flags; it has none of its own.
        prng_seed: The run's.
    """
    del options
    return GymScientist(split(prng_seed))


def seed_families(prng_seed: int) -> list[Draft]:
    """Return each family of the pool once, at its lowest levels."""
    parts = split(prng_seed)
    return _write(parts.pool, 1, "seed", parts.is_for_pool, prng_seed, "seed")


def held_out_questions(prng_seed: int) -> list[Draft]:
    """Return other questions of the pool's families, at several levels."""
    parts = split(prng_seed)
    return _write(parts.pool, _HELD_OUT_LEVELS, "novel", parts.is_held_out, prng_seed, "questions")


def held_out_families(prng_seed: int) -> list[Draft]:
    """Return families that are never in the pool, at several levels."""
    parts = split(prng_seed)
    return _write(
        parts.held_out, _HELD_OUT_LEVELS, "novel", lambda text: True, prng_seed, "families"
    )


def _write(
    families: Sequence[Family],
    depth: int,
    kind: Kind,
    accepts: Callable[[str], bool],
    prng_seed: int,
    purpose: str,
) -> list[Draft]:
    """Return drafts of families, each at its lowest levels and at `depth` - 1 harder ones.

    Levels with too few questions are left out.
    """
    drafts = []
    for family in families:
        rng = np.random.default_rng([prng_seed, *f"{purpose} {family.name}".encode()])
        levels = gym_levels.first_levels(family.name)
        for step in range(depth):
            if step:
                raised = gym_levels.harder(family.name, levels, rng)
                if raised is None:
                    break
                levels = raised
            try:
                drafts.append(write_draft(family, levels, kind, None, _QUESTIONS, rng, accepts))
            except NoQuestionsError:
                continue
    return drafts
