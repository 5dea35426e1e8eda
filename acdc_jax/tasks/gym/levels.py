"""Levels of difficulty: the curricula of reasoning-gym, one attribute at a time."""

from collections.abc import Mapping
from typing import Any

from acdc_jax.tasks.gym.catalogue import Family
from acdc_jax.tasks.gym.package import factory

Levels = Mapping[str, int]
"""Attribute of a curriculum → its level, from 0."""


def first_levels(family: str) -> dict[str, int]:
    """Return the lowest level of every attribute."""
    return dict.fromkeys(_attributes(family), 0)


def exist(family: str, levels: Levels) -> bool:
    """Return whether levels name every attribute of a family, none too high."""
    tops = _tops(family)
    return levels.keys() == tops.keys() and all(levels[name] <= tops[name] for name in tops)


def movable(family: Family, levels: Levels, step: int) -> list[str]:
    """Return the attributes that can go up (`step` 1) or down (-1) by one level."""
    tops = _tops(family.name)
    return [name for name, top in tops.items() if 0 <= levels[name] + step <= top]


def difficulty(family: str, levels: Levels) -> int:
    """Return the difficulty, from 1 at the bottom of all attributes to 5 at the top."""
    return 1 + round(4 * sum(levels.values()) / sum(_tops(family).values()))


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


def _tops(family: str) -> dict[str, int]:
    """Return the highest level of every attribute."""
    return {name: len(a.levels) - 1 for name, a in _attributes(family).items()}


def _attributes(family: str) -> dict[str, Any]:
    return dict(factory().create_curriculum(family).attributes)
