"""Ideas for tasks: families at some levels, and how one leads to others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from acdc_jax.tasks.gym import levels as gym_levels
from acdc_jax.tasks.gym.catalogue import FAMILIES, Family
from acdc_jax.tasks.task import Json

STEPS = 3
"""How many levels a random idea is at most above the lowest."""


class Part(NamedTuple):
    """A family at the levels of its attributes."""

    family: Family
    levels: dict[str, int]


Idea = tuple[Part, ...]
"""What a task asks: one part, or two, both of whose answers must be right."""


def recorded_idea(metadata: Mapping[str, Json]) -> Idea | None:
    """Return the idea that `write_draft` recorded; None for any other task."""
    records = metadata.get("parts")
    if not isinstance(records, list) or len(records) not in (1, 2):
        return None
    parts = []
    for record in records:
        if not isinstance(record, dict):
            return None
        name, levels = record.get("family"), record.get("levels")
        if not isinstance(name, str) or name not in FAMILIES or not isinstance(levels, dict):
            return None
        if not all(type(level) is int and level >= 0 for level in levels.values()):
            return None
        parts.append(Part(FAMILIES[name], levels))
    return tuple(parts)


def lowest(family: Family) -> Idea:
    """Return a family at its lowest levels."""
    return (Part(family, gym_levels.first_levels(family.name)),)


def neighbours(idea: Idea, step: int, rng: np.random.Generator) -> Iterator[Idea]:
    """Yield ideas of which one attribute is a level up (`step` 1) or down (-1), in random order."""
    moves = [(i, name) for i, part in enumerate(idea) for name in gym_levels.movable(*part, step)]
    for move in rng.permutation(len(moves)):
        i, name = moves[move]
        family, levels = idea[i]
        moved = Part(family, {**levels, name: levels[name] + step})
        yield (*idea[:i], moved, *idea[i + 1 :])


def unused(
    families: Sequence[Family], earlier: Sequence[Idea], rng: np.random.Generator
) -> Iterator[Idea]:
    """Yield the families that no idea has used, at their lowest levels, in random order."""
    used = {part.family for idea in earlier for part in idea}
    for i in rng.permutation(len(families)):
        if families[i] not in used:
            yield lowest(families[i])


def composites(idea: Idea, families: Sequence[Family], rng: np.random.Generator) -> Iterator[Idea]:
    """Yield the idea's first part together with another family, in random order."""
    for i in rng.permutation(len(families)):
        if families[i] != idea[0].family:
            yield (idea[0], *lowest(families[i]))


def random_idea(
    families: Sequence[Family], rng: np.random.Generator, most_steps: int = STEPS
) -> Idea:
    """Return a random family, up to `most_steps` levels above the lowest."""
    idea = lowest(families[int(rng.integers(len(families)))])
    for _ in range(int(rng.integers(most_steps + 1))):
        idea = next(neighbours(idea, 1, rng), idea)
    return idea
