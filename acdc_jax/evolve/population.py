"""Several members as one tree: the leading axis over which everything of a generation is mapped."""

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from acdc_jax.model.transformer import Weights


@jax.jit
def stack(members: Sequence[Weights]) -> Weights:
    """Trees of equal shapes → one tree whose leaves have a leading axis [len(members), …]."""
    return {path: jnp.stack([member[path] for member in members]) for path in members[0]}


@jax.jit
def member_of(population: Weights, index: int | jax.Array) -> Weights:
    """One member's weights, without the leading axis."""
    return {
        path: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)
        for path, leaf in population.items()
    }


def in_populations(
    members: Sequence[str], weights: Mapping[str, Weights], size: int
) -> Iterator[tuple[Sequence[str], Weights]]:
    """Groups members into populations of one size, so that decoding compiles once.

    Yields:
        At most `size` ids, and their stacked weights; the last group is padded by repetition.
    """
    for start in range(0, len(members), size):
        group = members[start : start + size]
        padded = [*group, *[group[0]] * (size - len(group))]
        yield group, stack([weights[member] for member in padded])
