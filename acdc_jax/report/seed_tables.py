"""Tables of what `acdc seeds check` measures."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from acdc_jax.evolution.task_vectors import (
    BASE,
    FIRST_SEED,
    MODULES,
    ORIGIN,
    PROJECTIONS,
    Squares,
    cosines,
    relative_distances,
    total,
)
from acdc_jax.runtime.seed_descriptions import NamedModel
from acdc_jax.runtime.seed_models import Folders


def models_table(
    models: Sequence[NamedModel], folders: Folders, squares: Mapping[str, Squares]
) -> Table:
    """Return a table with a line for the base and for each seed.

    Args:
        models: The base, then the seeds.
        folders: Of these models.
        squares: Module → their squared distances.
    """
    distances = relative_distances(total(squares))[BASE]
    angles = cosines(total(squares, PROJECTIONS), ORIGIN)[BASE]
    table = Table(title="Models", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    table.add_column("model", overflow="fold")
    table.add_column("licence", overflow="fold")
    table.add_column("dtype")
    table.add_column("distance\nto base", justify="right")
    table.add_column("cosine\nof weights", justify="right")
    for point, model in enumerate(models, BASE):
        is_base = point == BASE
        table.add_row(
            "base" if is_base else str(point - BASE),
            Text(model.name),
            Text(model.licence),
            folders.stored[model.folder].dtype,
            "" if is_base else f"{distances[point]:.3g}",
            "" if is_base else f"{angles[point]:.4f}",
        )
    return table


def pairs_table(squares: Mapping[str, Squares]) -> Table:
    """Return a table with a line for each two seeds: distance, and cosines by module.

    Args:
        squares: Module → squared distances of all models.
    """
    distances = relative_distances(total(squares))
    modules = [name for name in MODULES if name in squares]
    angles = [cosines(sums, BASE) for sums in (total(squares), *(squares[m] for m in modules))]
    table = Table(
        title="Pairs: distance, and cosines of task vectors",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,  # so that all modules fit 80 characters
        show_edge=False,
    )
    table.add_column("")
    for name in ("dist.", "all", *modules):
        table.add_column(name, justify="right")
    for i, j in combinations(range(FIRST_SEED, len(distances)), 2):
        cells = (_format_cosine(matrix[i, j]) for matrix in angles)
        table.add_row(f"{i - BASE}-{j - BASE}", _short(f"{distances[i, j]:.2g}"), *cells)
    return table


def _format_cosine(cosine: float) -> str:
    """Return a cosine in four characters at most; a dash for a task vector of zero."""
    if math.isnan(cosine):
        return "-"
    return _short(f"{round(cosine, 2) + 0.0:.2f}")[:4]  # never -.00


def _short(number: str) -> str:
    """Return a decimal number without the zero before its point."""
    return number.replace("0.", ".", 1)
