"""Do these seeds merge? How far base and seeds are from each other.

`acdc seeds check` compares all of them. A run compares each seed with the base, as it loads both.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.task_vectors import (
    BASE,
    FIRST_SEED,
    ORIGIN,
    PROJECTIONS,
    Squares,
    cosines,
    module_of,
    relative_distances,
    squared_distances,
    total,
)
from acdc_jax.models.transformer import param_shapes
from acdc_jax.runtime.progress import Progress
from acdc_jax.runtime.seed_descriptions import NamedModel, compare_descriptions, name_models
from acdc_jax.runtime.seed_models import Folders, stream_models
from acdc_jax.runtime.setup import RunContext

UNRELATED = 0.1
"""Cosine of the projections' weights below which a seed is not a fine-tune of the base.

Norm gains are left out: they are near one in every model. Two of the quickstart's bases, trained
from different initial weights, have a cosine of 0.16 over all weights and of 0.003 over the
projections, and an expert and its base 0.9998. In SmolLM2-135M-Instruct, cosines between
projections of different layers, which have nothing in common, are −0.02 to 0.02. Continued
pretraining lies between; no such model has been measured.
"""

_log = logging.getLogger(__name__)


def measure_weights(folders: Folders, progress: Progress) -> dict[str, Squares]:
    """Return the squared distances of base and seeds by module, read weight by weight.

    Args:
        folders: From `check_folders`.
        progress: Shows how many weights are read.

    Raises:
        AcdcError: A weight is missing, damaged, not finite, or has another shape.
    """
    squares: dict[str, Squares] = {}
    count = len(param_shapes(folders.model))
    for done, (path, leaves) in enumerate(stream_models(folders), 1):
        _add(squares, path, squared_distances(leaves))
        progress("comparing weights", done, count)
    return squares


def compare_weights(models: Sequence[NamedModel], squares: Mapping[str, Squares]) -> list[str]:
    """Return which models have the same weights, or weights that have nothing in common.

    Args:
        models: The base, then the seeds.
        squares: Module → squared distances of these models.
    """
    base, *seeds = (model.name for model in models)
    distances, angles = total(squares), cosines(total(squares, PROJECTIONS), ORIGIN)
    copies = {
        point
        for point in range(FIRST_SEED, len(distances))
        if (distances[FIRST_SEED:point, point] == 0).any()
    }
    unrelated = [p for p in range(FIRST_SEED, len(angles)) if angles[BASE, p] < UNRELATED]
    lines = []
    for point, seed in enumerate(seeds, FIRST_SEED):
        if point in copies:
            first = int(np.argmin(distances[FIRST_SEED:point, point]))
            lines.append(_same_weights(seeds[first], seed))
        elif distances[BASE, point] == 0:
            lines.append(f"{seed}: has the weights of the base {base}")
        elif point in unrelated:
            lines.append(
                f"{seed}: is no fine-tune of the base {base}: the cosine of their weights is "
                f"{angles[BASE, point]:.3f}, as of models trained apart; do not merge them"
            )
    between = angles[FIRST_SEED:, FIRST_SEED:]
    if len(unrelated) == len(seeds) > 1 and np.nanmin(between) > UNRELATED:
        lines.append(f"the seeds are fine-tunes of one base, but not of {base}: name theirs")
    elif not unrelated and not copies and len(seeds) > 2:
        lines.append(_expectation(least_to_largest(squares)))
    return lines


def least_to_largest(squares: Mapping[str, Squares]) -> float:
    """Return the least distance between two of at least three seeds, divided by the largest.

    It is 0.65 for the quickstart's eight experts, which merge well, but are made to.

    Source:
        arXiv 2604.14969, App. J.
    """
    between = total(squares)[FIRST_SEED:, FIRST_SEED:]
    pairs = between[np.triu_indices(len(between), 1)]
    return float(np.sqrt(pairs.min() / pairs.max()))


def _expectation(ratio: float) -> str:
    """Return what is known of how well such seeds merge."""
    return (
        f"least / largest distance between seeds: {ratio:.2g}. In the paper (App. J), two families "
        "with 0.05 and 0.10 merged well and two with 0.79 and 0.83 poorly, but one with 0.64 best: "
        "a weak guide"
    )


def _same_weights(first: str, second: str) -> str:
    return f"{second}: has the weights of {first}; leave one of them out"


def _add(squares: dict[str, Squares], path: str, more: Squares) -> None:
    name = module_of(path)
    squares[name] = squares[name] + more if name in squares else more


def warn_of_seeds(context: RunContext) -> None:
    """Log what a new run should know about its seeds, one line per finding.

    Each seed is compared with the base alone: not all seeds may fit into memory at once.
    """
    base, *seeds = models = name_models(context.config.seeds, context.folders)
    lines = compare_descriptions(models, context.folders, context.config.decode)
    distances, names = [], dict[str, str]()
    for seed, member in zip(seeds, context.seeds, strict=True):
        weights, squares = context.store.get(member), dict[str, Squares]()
        for path, leaf in context.bases[0].items():
            _add(squares, path, squared_distances([leaf, weights[path]]))
        lines += compare_weights([base, seed], squares)
        distances.append(relative_distances(total(squares))[BASE, FIRST_SEED])
        content = content_hash(weights)
        if content in names:
            lines.append(_same_weights(names[content], seed.name))
        names.setdefault(content, seed.name)
    least_and_largest = dict.fromkeys(f"{d:.2g}" for d in (min(distances), max(distances)))
    lines.append(
        f"seeds: {' to '.join(least_and_largest)} of the base's norm away from it; `acdc seeds "
        "check` with these flags compares them with each other"
    )
    for line in lines:
        _log.warning("%s", line)
