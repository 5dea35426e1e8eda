"""Merges of thinned task vectors: TIES, DARE, DELLA.

A child is θ₀ + Σₚ wₚ thin(τₚ): TIES keeps the largest entries of every weight, DARE random ones,
DELLA random ones, with large magnitudes favoured. What remains of DARE and DELLA is divided
by its probability, so that the expectation is τₚ. TIES, `dare_ties` and `della` then let the
parents elect a sign for every entry, and drop the entries of the other sign.

TIES: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", arXiv 2306.01708.
DARE: Yu et al., "Language Models are Super Mario", arXiv 2311.03099.
DELLA: Deep et al., "DELLA-Merging: Reducing Interference in Model Merging through
Magnitude-Based Sampling", arXiv 2406.11617.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from acdc_jax.evolution.merge.options import MergeOptions

_DIGIT = 3  # Bits of a threshold found per pass over the weight: 7 counts a pass, 10 passes.


def sparse(
    merge: MergeOptions,
    base: jax.Array,
    parents: Sequence[jax.Array],
    coefficients: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Merge one weight; float32 inside, rounded once to the base's dtype.

    Args:
        merge: A method that thins task vectors.
        base: θ₀, any shape.
        parents: P weights of that shape. One with coefficient 0 has no influence.
        coefficients: [P] float32.
        key: Typed PRNG key of this weight; parent p draws from its own part of it.

    Returns:
        The child's weight.
    """
    start = base.astype(jnp.float32)
    changes = [
        coefficients[p]
        * _thin(merge, parent.astype(jnp.float32) - start, jax.random.fold_in(key, p))
        for p, parent in enumerate(parents)
    ]
    if merge.elects:
        up = reduce(add, changes) >= 0
        agree = [jnp.where(up, change > 0, change < 0) for change in changes]
        changes = [jnp.where(a, change, 0) for a, change in zip(agree, changes, strict=True)]
        weights = [jnp.where(a, w, 0) for a, w in zip(agree, coefficients, strict=True)]
    else:
        weights = list(coefficients)
    change = reduce(add, changes)
    if merge.normalise:
        total = reduce(add, weights)
        change = jnp.where(total == 0, 0, change / jnp.where(total == 0, 1, total))
    return (start + change).astype(base.dtype)


def _thin(merge: MergeOptions, change: jax.Array, key: jax.Array) -> jax.Array:
    """Return a task vector with a share `density` of its entries."""
    if not merge.drops:
        return trim(change, merge.density)
    keep: jax.Array = jnp.float32(merge.density)
    if merge.ranks:
        keep = merge.density + merge.epsilon * (2 * relative_ranks(jnp.abs(change)) - 1)
    mask = jax.random.uniform(key, change.shape, jnp.float32) < keep
    return jnp.where(mask, change / keep, 0)


def trim(change: jax.Array, density: float) -> jax.Array:
    """Keep the largest entries by magnitude, and set the others to 0.

    The threshold is the exact order statistic, found digit by digit in passes that only count:
    nothing is sorted, and a sharded array stays where it is. Entries that equal the threshold are
    all kept.

    Args:
        change: [...] float32, fewer than 2³¹ entries.
        density: Share that is kept; of n entries max(1, ⌊density n⌋), and ties.

    Returns:
        `change`, thinned.
    """
    if density == 1:
        return change
    count = max(1, int(density * change.size))
    # The bits of a positive float are ordered as the float is.
    bits = jax.lax.bitcast_convert_type(jnp.abs(change), jnp.int32)

    def add_digit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        shift = 30 - _DIGIT - _DIGIT * i
        steps = [threshold + (jnp.int32(digit) << shift) for digit in range(1, 1 << _DIGIT)]
        enough = [(bits >= step).sum(dtype=jnp.int32) >= count for step in steps]
        return threshold + (jnp.stack(enough).sum(dtype=jnp.int32) << shift)

    # The highest bit of a finite float's exponent is 1 only from 2 on: it is a separate digit.
    top = jnp.int32(1 << 30)
    start = jnp.where((bits >= top).sum(dtype=jnp.int32) >= count, top, 0)
    threshold = jax.lax.fori_loop(0, 30 // _DIGIT, add_digit, start)
    return jnp.where(bits >= threshold, change, 0)


def relative_ranks(magnitudes: jax.Array) -> jax.Array:
    """Return the rank of each entry in its row, from 0 (smallest) to 1; equal entries are equal.

    Args:
        magnitudes: [..., n] float32.

    Returns:
        [..., n] float32.
    """
    rows = magnitudes.reshape(-1, magnitudes.shape[-1])
    below = jax.vmap(lambda row: jnp.searchsorted(jnp.sort(row), row, method="scan"))(rows)
    last = max(magnitudes.shape[-1] - 1, 1)
    return below.reshape(magnitudes.shape).astype(jnp.float32) / last
