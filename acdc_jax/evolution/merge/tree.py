"""Merging whole weight trees.

Methods that average run one program per layer, a stream through memory. The others run one per
weight, which bounds memory by one weight's temporaries. Either is compiled once for all layers.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Key

from acdc_jax.evolution.merge.average import average, needs_base
from acdc_jax.evolution.merge.options import MergeOptions
from acdc_jax.evolution.merge.sparse import sparse
from acdc_jax.params import Tree, blocks, named_leaves, path_hashes

Leaves = tuple[jax.Array, ...]
_LINEAR = MergeOptions()


def merge(
    base: Tree,
    parents: Sequence[Tree],
    weights: Sequence[float] | Float[ArrayLike, " P"] | Float[ArrayLike, "P G"],
    options: MergeOptions = _LINEAR,
    *,
    key: Key[jax.Array, ""] | None = None,
    groups: Mapping[str, int] | None = None,
) -> Tree:
    """Merge models into a child. Arithmetic is float32 and rounds once, to the base's dtype.

    Args:
        base: θ₀, any pytree of arrays.
        parents: P trees with the base's structure and shapes. A parent with coefficient 0 has no
            influence if its weights are finite.
        weights: The parents' coefficients, one per parent [P] or one per parent and merge group
            [P, G]. A group whose coefficients are all 0 keeps θ₀.
        options: The method and its settings.
        key: PRNG key of methods that drop entries at random. Every path and parent draws from its
            own part of it.
        groups: Dotted path of each leaf → its merge group; see `module_groups`. By default all
            leaves are in group 0.

    Returns:
        The child's weights, in the base's dtypes, sharded like the base.

    Raises:
        ValueError: The trees differ in structure, `weights` does not fit the parents and groups, or
            the method needs a key.
    """
    base_leaves, unflatten = named_leaves(base)
    others = [named_leaves(parent)[0] for parent in parents]
    for tree in (*others, *([] if groups is None else [groups])):
        if odd := base_leaves.keys() ^ tree.keys():
            raise ValueError(f"weight {min(odd)!r} is missing from a model that is to be merged")
    coefficients = np.asarray(weights, np.float32)
    coefficients = coefficients[:, None] if coefficients.ndim == 1 else coefficients
    if len(coefficients) != len(others):
        raise ValueError(f"{len(coefficients)} coefficients do not fit {len(others)} parents")
    if key is None:
        if options.drops:
            raise ValueError(f"{options.method} merges drop entries at random: they need a key")
        key = jax.random.key(0)  # for the signature; nothing draws from it
    reads_base = needs_base(options, coefficients)
    paths = tuple(base_leaves)
    merged: dict[str, jax.Array] = {}
    for batch in blocks(paths) if options.averages else [(path,) for path in paths]:
        children = _merge_leaves_jit(
            options,
            reads_base,
            tuple(base_leaves[path] for path in batch),
            tuple(tuple(parent[path] for path in batch) for parent in others),
            coefficients,
            key,
            columns(batch, groups),
            path_hashes(batch),
        )
        merged.update(zip(batch, children, strict=True))
    return unflatten(_sharded_like(base_leaves[path], merged[path]) for path in paths)


def _sharded_like(base: jax.Array, child: jax.Array) -> jax.Array:
    """Return the child with the base's sharding, which XLA may spell in another way; no copy."""
    if isinstance(child, jax.core.Tracer) or not isinstance(base, jax.Array):
        return child
    return child if child.sharding == base.sharding else jax.device_put(child, base.sharding)


def _merge_leaves(
    options: MergeOptions,
    reads_base: bool,
    base: Sequence[jax.Array],
    parents: Sequence[Sequence[jax.Array]],
    coefficients: jax.Array,
    key: jax.Array,
    columns: jax.Array,
    hashes: jax.Array,
) -> Leaves:
    """Merge leaves of one child.

    Args:
        options: The method and its settings.
        reads_base: From `needs_base`.
        base: θ₀, W arrays.
        parents: P sequences of arrays shaped like them.
        coefficients: [P, G] float32.
        key: PRNG key.
        columns: Merge group of each leaf, [W] int32.
        hashes: From `path_hashes`, [W] uint32.
    """
    with jax.named_scope("merge"):
        w = coefficients[:, columns]
        if options.averages:
            return average(options, base, parents, w, reads_base=reads_base)
        return tuple(
            sparse(
                options,
                leaf,
                [parent[i] for parent in parents],
                w[:, i],
                jax.random.fold_in(key, hashes[i]),
            )
            for i, leaf in enumerate(base)
        )


_merge_leaves_jit = jax.jit(_merge_leaves, static_argnums=(0, 1))


def columns(paths: Sequence[str], groups: Mapping[str, int] | None) -> np.ndarray:
    """Return the merge group of each path, [W] int32."""
    return np.array([0 if groups is None else groups[path] for path in paths], np.int32)
