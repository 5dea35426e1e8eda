"""The task families that a run starts from, written by hand: two sets, or the user's own."""

from pathlib import Path

from acdc_jax.errors import ConfigError
from acdc_jax.tasks.task import Draft, load_draft

_PACKAGE = Path(__file__).parents[1]
SETS = {
    "tiny": _PACKAGE / "quickstart" / "families",
    "general": _PACKAGE / "tasks" / "families" / "general",
}


def seed_families(name: str = "tiny") -> list[Draft]:
    """Drafts of a set's families, by folder name.

    Args:
        name: `tiny` (one for each of the tiny experts), `general`, or a folder of families.

    Raises:
        ConfigError: the folder is missing or holds no family.
    """
    root = SETS.get(name, Path(name))
    folders = sorted(path.parent for path in root.glob("*/task.py"))
    if not folders:
        raise ConfigError(
            f"--seed_families={name}: no folder with families (each a folder with task.py and "
            f"task.json); the sets that come along are {' and '.join(SETS)}"
        )
    return [load_draft(folder) for folder in folders]
