"""`acdc lineage RUN MEMBER`: print a member's family tree."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.report.family_tree import family_tree
from acdc_jax.runtime.run_reader import read_manifest, read_recipes

_USAGE = "usage: acdc lineage RUN MEMBER"
_HELP = """acdc lineage RUN MEMBER: print a member's family tree, down to the seeds.

Each line is a member: the coefficient of its task vector in the child above (the mean and the range
over the merge groups, if there are several), its generation, how it was merged and mutated, and
whether its weights are on disk. The ancestors of a member that appears twice are shown once.

MEMBER is any member that the run ever made, such as g012-m03. `acdc export` writes it as a Hugging
Face folder, and rebuilds it if it is no longer on disk.
"""


def command(argv: Sequence[str]) -> None:
    """Run `acdc lineage`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP, end="")
        return
    if len(argv) != 2:
        raise ConfigError(_USAGE)
    run_dir, member = Path(argv[0]), argv[1]
    recipes = read_recipes(run_dir, read_manifest(run_dir).generation)
    if member not in recipes:
        raise AcdcError(f"{run_dir}: no member {member!r}; the files in archive/ list them all")
    tree = family_tree(member, recipes, run_dir / "members")
    Console(soft_wrap=True, highlight=False).print(tree)
