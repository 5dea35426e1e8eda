"""A member on disk: `members/<id>/` holds the weights (orbax) and the recipe.

A folder is complete exactly if it has its `recipe.json`, which is written last. What the weights
must be is in the recipe (`content_hash`); no digests of files are kept beside it.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from acdc_jax.errors import AcdcError
from acdc_jax.evolve.content import content_hash
from acdc_jax.evolve.recipe import Recipe
from acdc_jax.files import write_atomic
from acdc_jax.model.transformer import Weights

_IN_FLIGHT_GB = 1  # bytes that orbax reads or writes at once, beside the member itself
_REMEDY = "restore the folder from a copy, or start a new run"


def save_member(folder: Path, weights: Weights, recipe: Recipe) -> None:
    """Writes a member; a folder left behind by a crash is replaced.

    Args:
        folder: `members/<id>`.
        weights: any sharding and memory; written in their stored dtype.
        recipe: what made the member.

    Raises:
        AcdcError: it cannot be written.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        with _checkpointer() as checkpointer:
            checkpointer.save((folder / "weights").resolve(), ocp.args.PyTreeSave(weights))
        write_atomic(folder / "recipe.json", json.dumps(recipe.to_json()))
    except (OSError, ValueError) as error:
        raise AcdcError(f"{folder}: cannot be written ({_one_line(error)})") from error


def load_member(folder: Path, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[Weights, Recipe]:
    """Reads a member; `check_member` says whether it is what was written.

    Args:
        folder: `members/<id>`.
        shapes: path → shape, dtype and sharding that the weights are wanted in.

    Raises:
        AcdcError: it is missing, corrupt, or of another shape; names the folder.
    """
    try:
        recipe = load_recipe(folder)
        wanted = {
            path: ocp.ArrayRestoreArgs(
                sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype, strict=True
            )
            for path, leaf in shapes.items()
        }
        with _checkpointer() as checkpointer:
            weights = checkpointer.restore(
                (folder / "weights").resolve(),
                ocp.args.PyTreeRestore(item=dict(shapes), restore_args=wanted),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AcdcError(
            f"{folder}: the member cannot be read ({_one_line(error)}); {_REMEDY}"
        ) from error
    return weights, recipe


def check_member(folder: Path, weights: Weights, recipe: Recipe) -> None:
    """Compares weights that were read with the recipe: orbax itself notices only some damage.

    Raises:
        AcdcError: they differ; names the folder.
    """
    if (found := content_hash(weights)) != recipe.content:
        raise AcdcError(
            f"{folder}: is damaged (its weights hash to {found}, but its recipe says "
            f"{recipe.content}); {_REMEDY}"
        )


def load_recipe(folder: Path) -> Recipe:
    """Reads what made a member.

    Raises:
        AcdcError: it is missing or damaged.
    """
    path = folder / "recipe.json"
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AcdcError(f"{path}: cannot be read ({reason}); {_REMEDY}") from None


def on_disk(folder: Path) -> bool:
    """Whether a member's folder is complete."""
    return (folder / "recipe.json").exists()


def _checkpointer() -> ocp.Checkpointer:
    # Not the asynchronous one, which copies the whole member first: it is called from a thread.
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(
            save_concurrent_gb=_IN_FLIGHT_GB, restore_concurrent_gb=_IN_FLIGHT_GB
        )
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
