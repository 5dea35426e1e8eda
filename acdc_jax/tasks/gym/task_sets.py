"""The `gym` of `--scientist` and `--seed_families`, and the two sets of `--held_out`."""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np

from acdc_jax.errors import ConfigError
from acdc_jax.tasks.gym.catalogue import Family
from acdc_jax.tasks.gym.ideas import Idea, lowest, neighbours
from acdc_jax.tasks.gym.questions import NoQuestionsError
from acdc_jax.tasks.gym.scientist import GymScientist
from acdc_jax.tasks.gym.split import split_families
from acdc_jax.tasks.gym.write import write_draft
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.task import Draft, Kind

_HELD_OUT_LEVELS = 3  # of each family: the lowest, and as many above
_MOST_STEPS = 8  # levels of a family that are tried


def scientist(options: object, prng_seed: int, tasks: TaskPoolOptions) -> GymScientist:
    """Return the scientist of a PRNG seed, which decides what is held out.

    Args:
        options: The scientist's flags; none matters here.
        prng_seed: The run's.
        tasks: Its `gym_families` are divided.
    """
    del options
    return GymScientist(split_families(tasks.gym_families, prng_seed), _questions(tasks))


def seed_families(prng_seed: int, options: TaskPoolOptions) -> list[Draft]:
    """Return each family of the pool once, at its lowest levels."""
    parts = split_families(options.gym_families, prng_seed)
    return _write(parts.pool, 1, "seed", parts.is_for_pool, prng_seed, options)


def held_out_questions(prng_seed: int, options: TaskPoolOptions) -> list[Draft]:
    """Return other questions of the pool's families, at several levels."""
    parts = split_families(options.gym_families, prng_seed)
    return _write(parts.pool, _HELD_OUT_LEVELS, "novel", parts.is_held_out, prng_seed, options)


def held_out_families(prng_seed: int, options: TaskPoolOptions) -> list[Draft]:
    """Return families that are never in the pool, at several levels.

    Raises:
        ConfigError: The chosen families are too few to hold one out.
    """
    parts = split_families(options.gym_families, prng_seed)
    if not parts.held_out:
        raise ConfigError(
            f"--gym_families={','.join(options.gym_families)} leaves no family to hold out; choose "
            "another --held_out, or in a new run three or more families of a category"
        )
    return _write(parts.held_out, _HELD_OUT_LEVELS, "novel", lambda text: True, prng_seed, options)


def _questions(options: TaskPoolOptions) -> int:
    """Return how many questions a task has: two at least, as a draft must."""
    return max(2, options.instances_per_task)


def _write(
    families: Sequence[Family],
    depth: int,
    kind: Kind,
    accepts: Callable[[str], bool],
    prng_seed: int,
    options: TaskPoolOptions,
) -> list[Draft]:
    """Return `depth` drafts of each family, from its lowest levels with enough questions up.

    Raises:
        ConfigError: No family has enough questions.
    """
    drafts = list[Draft]()
    for family in families:
        rng = np.random.default_rng([prng_seed, *f"{kind} {family.name}".encode()])
        idea: Idea | None = lowest(family)
        written = list[Draft]()
        for _ in range(_MOST_STEPS):
            if idea is None or len(written) == depth:
                break
            with contextlib.suppress(NoQuestionsError):
                written.append(write_draft(idea, kind, None, _questions(options), rng, accepts))
            idea = next(neighbours(idea, 1, rng), None)
        drafts += written
    if not drafts:
        names = ", ".join(family.name for family in families)
        raise ConfigError(
            f"--gym_families: there are too few questions of {names}; name others in a new run"
        )
    return drafts
