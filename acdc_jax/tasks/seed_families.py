"""The task families that a run starts from: one for each of the tiny experts, written by hand."""

from pathlib import Path

from acdc_jax.tasks.task import Draft, load_draft

_FOLDER = Path(__file__).parent / "families"


def seed_families() -> list[Draft]:
    """Drafts of all families in `families/`, by folder name."""
    return [load_draft(folder) for folder in sorted(_FOLDER.iterdir()) if folder.is_dir()]
