"""All children of a generation together: merged, checked and hashed, layer by layer.

A layer's program is sharded over the mesh axis "pop" and maps the work of a single child over a
shard's children. Optimisation barriers keep the compiler from fusing that work with what surrounds
it, so that each child has the bits that `merge` gives it alone.

The program is compiled once for all layers. On an H200, with 30 layers of 135 million parameters
and 8 children of 3 parents, one program over all weights takes 25 s to compile and 0.06 s to run;
one per weight, 3 s and 0.12 s.

It serves merges that average whole parents, without a mutation: a stream through memory. The other
methods and the mutations stay one program per shape of a weight. As part of a larger program they
took minutes to compile on an H200, drops at random were not the same on a CPU, and decompositions
on a CPU would wait for each other.
"""

from collections.abc import Mapping
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Float, UInt32

from acdc_jax.evolution.content_hash import digest_leaves, salts
from acdc_jax.evolution.merge.average import average
from acdc_jax.evolution.merge.options import MergeOptions
from acdc_jax.evolution.merge.tree import Leaves, columns
from acdc_jax.params import Params, blocks


def merge_population(
    base: Params,
    parents: Params,
    coefficients: Float[ArrayLike, "C P G"],
    merge_groups: Mapping[str, int],
    options: MergeOptions,
    mesh: Mesh,
    *,
    reads_base: bool,
) -> tuple[Params, UInt32[Array, "C weights 3"]]:
    """Merge, check and hash children.

    Args:
        base: θ₀, one copy for each shard of "pop", concatenated along the first axis.
        parents: Leaves [C, P, …]: row c holds the parents of child c.
        coefficients: Of the merges.
        merge_groups: Path of each leaf → index into G.
        options: A method that averages.
        mesh: Has the axis "pop", which the children are sharded over. Its other axes may shard the
            weights of each child.
        reads_base: From `needs_base`: whether θ₀ has a share in the children.

    Returns:
        Leaves [C, …], sharded like the parents; and each child's digests for
        `content_hash.read_digests`.
    """
    children: Params = {}
    digests = []
    for paths in blocks(sorted(base)):
        specs = [cast(NamedSharding, parents[path].sharding).spec for path in paths]
        leaves, rows = _merge(
            tuple(base[path] for path in paths),
            tuple(parents[path] for path in paths),
            coefficients,
            columns(paths, merge_groups),
            salts(paths),
            options,
            reads_base,
            tuple(NamedSharding(mesh, PartitionSpec("pop", *spec[2:])) for spec in specs),
        )
        children.update(zip(paths, leaves, strict=True))
        digests.append(rows)
    return children, jnp.concatenate(digests, axis=1)


@partial(jax.jit, static_argnames=("options", "reads_base", "shardings"))
def _merge(
    base: Leaves,
    parents: Leaves,
    coefficients: jax.Array,
    columns: jax.Array,
    salts: tuple[jax.Array, ...],
    options: MergeOptions,
    reads_base: bool,
    shardings: tuple[NamedSharding, ...],
) -> tuple[Leaves, jax.Array]:
    def merge_shard(
        base: Leaves,
        parents: Leaves,
        coefficients: jax.Array,
        columns: jax.Array,
        salts: tuple[jax.Array, ...],
    ) -> tuple[Leaves, jax.Array]:
        def merge_row(row: tuple[Leaves, jax.Array]) -> tuple[Leaves, jax.Array]:
            return _merge_child(base, *row, columns, salts, options, reads_base)

        merged: tuple[Leaves, jax.Array] = jax.lax.map(merge_row, (parents, coefficients))
        return merged

    rows, whole = PartitionSpec("pop"), PartitionSpec()
    children, digests = jax.shard_map(
        merge_shard,
        mesh=shardings[0].mesh,
        in_specs=(rows, rows, rows, whole, whole),
        out_specs=rows,
        axis_names={"pop"},
        check_vma=False,  # optimisation barriers have no rule for it
    )(base, parents, coefficients, columns, salts)
    return jax.lax.with_sharding_constraint(children, shardings), digests


def _merge_child(
    base: Leaves,
    parents: Leaves,
    coefficients: Float[Array, "P G"],
    columns: jax.Array,
    salts: tuple[jax.Array, ...],
    options: MergeOptions,
    reads_base: bool,
) -> tuple[Leaves, jax.Array]:
    """Merge one child in the same steps as separate programs would."""
    rows = [[leaf[p] for leaf in parents] for p in range(len(coefficients))]
    start, rows, coefficients = jax.lax.optimization_barrier((list(base), rows, coefficients))
    with jax.named_scope("merge"):
        shares = coefficients[:, columns]
        leaves = average(options, start, rows, shares, reads_base=reads_base)
    leaves = jax.lax.optimization_barrier(leaves)
    return leaves, digest_leaves(leaves, salts)
