"""Merging whole weight trees: one child, or all children of a generation.

Methods that average are one program over the whole tree, a stream through memory. The others are
one call per weight, which bounds memory by one weight's temporaries, and one compilation per shape.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np

from acdc_jax.evolution.merge.average import average, needs_base
from acdc_jax.evolution.merge.options import MergeOptions
from acdc_jax.evolution.merge.sparse import sparse
from acdc_jax.params import Params

Leaves = tuple[jax.Array, ...]


def merge_child(
    merge: MergeOptions,
    base: Params,
    parents: Sequence[Params],
    coefficients: jax.Array,
    key: jax.Array,
    groups: Mapping[str, int],
) -> Params:
    """Merges one child. Arithmetic is float32 and rounds once, to the base's dtype.

    Args:
        merge: How.
        base: Params θ₀.
        parents: P trees with the base's paths and shapes. A parent with coefficient 0 counts for
            nothing as long as its weights are finite.
        coefficients: [P, G] float32. A group whose coefficients are all 0 keeps θ₀.
        key: Typed PRNG key. Every path and parent draws from its own part of it.
        groups: Index into G of each path, from `module_groups`.

    Returns:
        The child's weights, in the base's dtypes, sharded like the base.

    Raises:
        ValueError: A tree lacks a path, or has one that the others do not have.
    """
    return _merge(_one, merge, base, parents, coefficients, key, groups)


def merge_children(
    merge: MergeOptions,
    base: Params,
    parents: Sequence[Params],
    coefficients: jax.Array,
    keys: jax.Array,
    groups: Mapping[str, int],
) -> Params:
    """Merges all children of a generation: `merge_child` under `vmap`.

    Args:
        merge: How.
        base: Params θ₀, without a leading axis.
        parents: P trees whose leaves have a leading axis C: row c is the parent of child c.
        coefficients: [C, P, G] float32.
        keys: Typed PRNG keys, [C].
        groups: As in `merge_child`.

    Returns:
        Weights with a leading axis C, sharded like the parents.

    Raises:
        ValueError: As in `merge_child`.
    """
    return _merge(_many, merge, base, parents, coefficients, keys, groups)


def _merge(
    merge_leaves: Callable[..., Leaves],
    merge: MergeOptions,
    base: Params,
    parents: Sequence[Params],
    coefficients: jax.Array,
    key: jax.Array,
    groups: Mapping[str, int],
) -> Params:
    for tree in (*parents, groups):
        if odd := base.keys() ^ tree.keys():
            raise ValueError(f"weight {min(odd)!r} is missing from a model that is to be merged")
    paths = list(base)
    # Of the others there is one program, which reads it.
    base_counts = not merge.averages or needs_base(merge, np.asarray(coefficients))
    merged: Params = {}
    for batch in [paths] if merge.averages else [[path] for path in paths]:
        leaves = merge_leaves(
            merge,
            base_counts,
            tuple(base[path] for path in batch),
            tuple(tuple(parent[path] for path in batch) for parent in parents),
            coefficients,
            key,
            np.array([groups[path] for path in batch], np.int32),
            # Not the path's position: a draw does not depend on which other weights there are.
            np.array([zlib.crc32(path.encode()) for path in batch], np.uint32),
        )
        merged.update(zip(batch, leaves, strict=True))
    return merged


def _merge_leaves(
    merge: MergeOptions,
    base_counts: bool,
    base: Leaves,
    parents: tuple[Leaves, ...],
    coefficients: jax.Array,
    key: jax.Array,
    columns: jax.Array,
    hashes: jax.Array,
) -> Leaves:
    w = coefficients[:, columns]
    if merge.averages:
        return average(merge, base, parents, w, base_counts=base_counts)
    return tuple(
        sparse(merge, leaf, [p[i] for p in parents], w[:, i], jax.random.fold_in(key, hashes[i]))
        for i, leaf in enumerate(base)
    )


_one = jax.jit(_merge_leaves, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(0, 1))
def _many(
    merge: MergeOptions,
    base_counts: bool,
    base: Leaves,
    parents: tuple[Leaves, ...],
    coefficients: jax.Array,
    keys: jax.Array,
    columns: jax.Array,
    hashes: jax.Array,
) -> Leaves:
    merge_leaves = partial(_merge_leaves, merge, base_counts)
    children = jax.vmap(merge_leaves, in_axes=(None, 0, 0, 0, None, None))
    merged: Leaves = children(base, parents, coefficients, keys, columns, hashes)
    return merged
