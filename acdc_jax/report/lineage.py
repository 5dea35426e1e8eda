"""The family tree of some members, laid out like a history of versions: a lane for each."""

from collections.abc import Mapping, Sequence

from acdc_jax.evolution.recipe import Recipe

Recipes = Mapping[str, Recipe]


def ancestors(members: Sequence[str], recipes: Recipes) -> list[str]:
    """The members and everything that they descend from, oldest first."""
    known: set[str] = set()
    waiting = list(members)
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            waiting += recipes[name].parents
    return sorted(known, key=lambda name: (*_age(recipes[name]), name))


def lay_out(members: Sequence[str], recipes: Recipes) -> dict[str, tuple[int, int]]:
    """Row and lane of each member.

    A row is a generation; seeds have one of their own, above the children that generation 0 makes
    of them. A member holds its lane from its own row to that of its last child, which may be the
    next to have it: so no line between a parent and a child runs through another member. A child
    takes the free lane nearest to its parents.

    Args:
        members: closed under parents and oldest first, as `ancestors` returns them.
        recipes: member id → recipe.

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
        wishes: dict[str, float] = {}
        for name in (name for name in members if row[name] == number):
            own = [lane[parent] for parent in recipes[name].parents]
            wishes[name] = sum(own) / len(own) if own else float(len(wishes))
        for name in sorted(wishes, key=lambda name: (wishes[name], name)):
            free = [i for i, since in enumerate(lanes) if since <= number]
            if not free:
                free = [len(lanes)]
                lanes.append(0)
            lane[name] = min(free, key=lambda i: (abs(i - wishes[name]), i))
            # A member without children here keeps its place for one row, so that none is below it.
            lanes[lane[name]] = max(held_until[name], number + 1)
    return {name: (row[name], lane[name]) for name in members}


def _age(recipe: Recipe) -> tuple[int, bool]:
    return recipe.generation, bool(recipe.parents)
