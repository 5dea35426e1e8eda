"""`acdc lineage RUN MEMBER`: a member's family tree, in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.runtime import run_reader
from acdc_jax.runtime.member_files import on_disk

_HELP = """acdc lineage RUN MEMBER: print a member's family tree, down to the seeds.

Each line is a member with the coefficient of its task vector in its child (the mean and the range
over the merge groups, where there are several), the generation that made it, how it was merged and
mutated, and whether its weights are on disk. An ancestor that is met again is not unfolded again.
Any member that the run ever made may be asked for; `acdc export` makes it again where need be.
"""


def command(argv: Sequence[str]) -> None:
    """Runs `acdc lineage`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP, end="")
        return
    if len(argv) != 2:
        raise ConfigError("usage: acdc lineage RUN MEMBER")
    run_dir, member = Path(argv[0]), argv[1]
    recipes = run_reader.read_recipes(run_dir, run_reader.read_manifest(run_dir).generation)
    if member not in recipes:
        raise AcdcError(f"{run_dir} never had a member {member!r}; its archive/ lists them")
    Console(soft_wrap=True, highlight=False).print(
        family_tree(member, recipes, run_dir / "members")
    )


def family_tree(member: str, recipes: Mapping[str, Recipe], members: Path) -> Tree:
    """A member and its ancestors, each unfolded once."""
    unfolded: set[str] = set()
    root = Tree("", hide_root=True)
    waiting = [(root, member, "")]
    while waiting:  # a member before its parents, the first parent's whole tree before the second
        branch, name, share = waiting.pop()
        recipe = recipes[name]
        if name in unfolded:
            branch.add(f"{share}{name} (see above)")
            continue
        unfolded.add(name)
        place = "on disk" if on_disk(members / name) else "dropped"
        below = branch.add(f"{share}[bold]{name}[/bold] {escape(_making(recipe))}, {place}")
        parents = zip(recipe.parents, recipe.coefficients, strict=True)
        waiting += [(below, parent, f"{_share(row)} × ") for parent, row in reversed([*parents])]
    return root


def _making(recipe: Recipe) -> str:
    if recipe.operator == "seed" or recipe.merge is None:
        return "seed"
    merge = f"generation {recipe.generation}, {recipe.merge.method}"
    if recipe.merge.normalise:
        merge += " (normalised)"
    if recipe.mutation is None:
        return merge
    return f"{merge}, {recipe.mutation.kind} mutation of scale {recipe.mutation.scale:g}"


def _share(row: Sequence[float]) -> str:
    mean = sum(row) / len(row)
    return f"{mean:.2f}" if len(row) == 1 else f"{mean:.2f} ({min(row):.2f}…{max(row):.2f})"
