"""Members on disk: `members/<id>/` holds the weights (orbax) and the recipe."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from acdc_jax.errors import AcdcError
from acdc_jax.evolve.recipe import Recipe
from acdc_jax.model.transformer import Weights


def save_member(folder: Path, weights: Weights, recipe: Recipe) -> None:
    """Writes a member; a folder left behind by a crash is replaced.

    Args:
        folder: `members/<id>`.
        weights: any sharding; written in their stored dtype.
        recipe: what made the member.

    Raises:
        AcdcError: it cannot be written.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((folder / "weights").resolve(), weights)
        (folder / "recipe.json").write_text(json.dumps(recipe.to_json()), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise AcdcError(f"{folder}: cannot be written ({_one_line(error)})") from error


def load_member(
    folder: Path,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> tuple[Weights, Recipe]:
    """Reads a member.

    Args:
        folder: `members/<id>`.
        shapes: path → shape, dtype and sharding that the weights are wanted in.

    Raises:
        AcdcError: it is missing, corrupt, or of another shape; names the folder.
    """
    try:
        recipe = load_recipe(folder)
        with ocp.StandardCheckpointer() as checkpointer:
            weights = checkpointer.restore((folder / "weights").resolve(), dict(shapes))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AcdcError(
            f"{folder}: the member cannot be read ({_one_line(error)}); "
            "restore the folder from a copy, or start a new run"
        ) from error
    return weights, recipe


def load_recipe(folder: Path) -> Recipe:
    """Reads what made a member."""
    return Recipe.from_json(json.loads((folder / "recipe.json").read_text(encoding="utf-8")))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
