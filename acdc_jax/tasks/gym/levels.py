"""Levels of difficulty: the curricula of reasoning-gym, one attribute at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from acdc_jax.tasks.gym.package import factory

Levels = Mapping[str, int]
"""Attribute of a curriculum → its level, from 0."""


def first_levels(family: str) -> dict[str, int]:
    """Return the lowest level of every attribute."""
    return dict.fromkeys(_attributes(family), 0)


def harder(family: str, levels: Levels, rng: np.random.Generator) -> dict[str, int] | None:
    """Return levels of which one, drawn at random, is higher by one; None at the top."""
    return _moved(family, levels, 1, rng)


def easier(family: str, levels: Levels, rng: np.random.Generator) -> dict[str, int] | None:
    """Return levels of which one, drawn at random, is lower by one; None at the bottom."""
    return _moved(family, levels, -1, rng)


def difficulty(family: str, levels: Levels) -> int:
    """Return the difficulty, from 1 at the bottom of all attributes to 5 at the top."""
    tops = [len(attribute.levels) - 1 for attribute in _attributes(family).values()]
    return 1 + round(4 * sum(levels.values()) / sum(tops))


def configuration(family: str, levels: Levels) -> dict[str, Any]:
    """Return the settings of a family at some levels, as its configuration class takes them."""
    curriculum = factory().create_curriculum(family)
    for name, level in levels.items():
        curriculum.set_attr_level(name, level)
    settings = curriculum.generate_configuration()
    fields = set[str]()
    for attribute in curriculum.attributes.values():
        names = ("field_name", "lower_field_name", "upper_field_name")
        fields |= {getattr(attribute, name) for name in names if hasattr(attribute, name)}
    return {name: getattr(settings, name) for name in sorted(fields)}


def _moved(
    family: str, levels: Levels, step: int, rng: np.random.Generator
) -> dict[str, int] | None:
    movable = [
        name
        for name, attribute in _attributes(family).items()
        if 0 <= levels[name] + step < len(attribute.levels)
    ]
    if not movable:
        return None
    name = movable[int(rng.integers(len(movable)))]
    return {**levels, name: levels[name] + step}


def _attributes(family: str) -> dict[str, Any]:
    return dict(factory().create_curriculum(family).attributes)
