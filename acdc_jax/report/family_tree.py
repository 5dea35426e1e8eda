"""Show a member's family tree in the terminal, or as text."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from acdc_jax.evolution.recipe import Recipe
from acdc_jax.runtime.member_files import on_disk


def family_tree(member: str, recipes: Mapping[str, Recipe], members: Path) -> Tree:
    """Return a member and its ancestors as a tree, each with its own parents only once.

    Args:
        member: Id of the member.
        recipes: Member id → recipe, of the member and its ancestors at least.
        members: Folder of the members that are on disk.
    """
    unfolded: set[str] = set()
    root = Tree("", hide_root=True)
    pending = [(root, member, "")]
    while pending:  # depth first: a member, its first parent's whole tree, its second parent's, …
        branch, name, coefficient = pending.pop()
        recipe = recipes[name]
        if name in unfolded:
            branch.add(f"{coefficient}{name} (see above)")
            continue
        unfolded.add(name)
        place = "on disk" if on_disk(members / name) else "dropped"
        below = branch.add(f"{coefficient}[bold]{name}[/bold] {escape(_making(recipe))}, {place}")
        parents = zip(recipe.parents, recipe.coefficients, strict=True)
        pending += [(below, parent, f"{_mean(row)} × ") for parent, row in reversed([*parents])]
    return root


def family_tree_text(member: str, recipes: Mapping[str, Recipe], members: Path) -> str:
    """Return the family tree as plain text; see `family_tree`."""
    console = Console(file=io.StringIO(), width=200, color_system=None, soft_wrap=True)
    with console.capture() as capture:
        console.print(family_tree(member, recipes, members))
    return capture.get()


def _making(recipe: Recipe) -> str:
    if recipe.operator == "seed" or recipe.merge is None:
        return "seed"
    merge = f"generation {recipe.generation}, {recipe.merge.method}"
    if recipe.merge.normalise:
        merge += " (normalised)"
    if recipe.mutation is None:
        return merge
    return f"{merge}, {recipe.mutation.kind} mutation of scale {recipe.mutation.scale:g}"


def _mean(row: Sequence[float]) -> str:
    """Return the mean coefficient, with its range over the merge groups if there are several."""
    mean = sum(row) / len(row)
    return f"{mean:.2f}" if len(row) == 1 else f"{mean:.2f} ({min(row):.2f}…{max(row):.2f})"
