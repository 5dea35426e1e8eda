"""Levels of difficulty: the curricula of reasoning-gym, one attribute at a time."""

from collections.abc import Mapping
from typing import Any

from acdc_jax.tasks.gym.catalogue import Family
from acdc_jax.tasks.gym.package import factory

Levels = Mapping[str, int]
"""Attribute of a curriculum → its level, from 0."""

# Higher ones take seconds or minutes per question, or have questions that are too long.
_HIGHEST = {
    "game_of_life": {"grid_size_x": 0, "grid_size_y": 0},
    "jugs": {"num_jugs": 0},
    "n_queens": {"n": 3},
    "zebra_puzzles": {"num_people": 3},
}


def first_levels(family: str) -> dict[str, int]:
    """Return the lowest level of every attribute."""
    return dict.fromkeys(highest_levels(family), 0)


def highest_levels(family: str) -> dict[str, int]:
    """Return the highest level of every attribute that is used."""
    attributes = factory().create_curriculum(family).attributes
    tops = {name: len(attribute.levels) - 1 for name, attribute in attributes.items()}
    return {**tops, **_HIGHEST.get(family, {})}


def exist(family: str, levels: Levels) -> bool:
    """Return whether levels name every attribute of a family, none too high."""
    tops = highest_levels(family)
    return levels.keys() == tops.keys() and all(levels[name] <= tops[name] for name in tops)


def movable(family: Family, levels: Levels, step: int) -> list[str]:
    """Return the attributes that can go up (`step` 1) or down (-1) by one level."""
    tops = highest_levels(family.name)
    return [name for name, top in tops.items() if 0 <= levels[name] + step <= top]


def difficulty(family: str, levels: Levels) -> int:
    """Return the difficulty, from 1 at the bottom of all attributes to 5 at the top."""
    return 1 + round(4 * sum(levels.values()) / sum(highest_levels(family).values()))


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
