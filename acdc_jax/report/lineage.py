"""Lay out the family tree of some members like a version history, in lanes."""

from collections.abc import Mapping, Sequence

from acdc_jax.evolution.recipe import Recipe

Recipes = Mapping[str, Recipe]


def ancestors(members: Sequence[str], recipes: Recipes) -> list[str]:
    """Return the members and all their ancestors, oldest first."""
    ids: set[str] = set()
    waiting = list(members)
    while waiting:
        name = waiting.pop()
        if name not in ids:
            ids.add(name)
            waiting += recipes[name].parents
    return sorted(ids, key=lambda name: (*_age(recipes[name]), name))


def lay_out(members: Sequence[str], recipes: Recipes) -> dict[str, tuple[int, int]]:
    """Return the row and the lane of each member.

    A row is a generation. The seeds have a row of their own, above the children that generation 0
    makes of them. A member keeps its lane from its own row to the row of its last child, which may
    take it over, so that no line from a parent to a child crosses another member. A child takes the
    free lane nearest to its parents.

    Args:
        members: Members with all their ancestors, oldest first, as `ancestors` returns them.
        recipes: Member id → recipe.

    Returns:
        Member id → (row, lane), in the order of `members`.
    """
    ages = sorted({_age(recipes[name]) for name in members})
    row = {name: ages.index(_age(recipes[name])) for name in members}
    held_until = dict(row)
    for name in members:
        for parent in recipes[name].parents:
            held_until[parent] = max(held_until[parent], row[name])
    lanes: list[int] = []  # row from which each lane is free
    lane: dict[str, int] = {}
    for number in range(len(ages)):
        ideal: dict[str, float] = {}  # the mean lane of the parents
        for name in (name for name in members if row[name] == number):
            above = [lane[parent] for parent in recipes[name].parents]
            ideal[name] = sum(above) / len(above) if above else float(len(ideal))
        for name in sorted(ideal, key=lambda name: (ideal[name], name)):
            free = [i for i, since in enumerate(lanes) if since <= number]
            if not free:
                free = [len(lanes)]
                lanes.append(0)
            lane[name] = min(free, key=lambda i: (abs(i - ideal[name]), i))
            # A member without children keeps its lane for one row, so that none is right below it.
            lanes[lane[name]] = max(held_until[name], number + 1)
    return {name: (row[name], lane[name]) for name in members}


def _age(recipe: Recipe) -> tuple[int, bool]:
    return recipe.generation, bool(recipe.parents)
