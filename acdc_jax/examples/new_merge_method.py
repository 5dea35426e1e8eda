"""A merge method of your own: keep, for every number, the parent that changed it most (MagMax).

A method is a function of arrays. `jax.tree.map` applies it to each weight of the models, and `jit`
makes one program of all of them.

    python -m acdc_jax.examples.new_merge_method base expert-a expert-b child

Source: Marczak et al., "MagMax: Leveraging Model Merging for Seamless Continual Learning",
arXiv 2407.06322.
"""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp

import acdc_jax as acdc


def magmax(base: jax.Array, *parents: jax.Array) -> jax.Array:
    """Return θ₀ plus, for each entry, the task vector's entry of largest magnitude.

    Args:
        base: A weight θ₀, of any shape.
        parents: The same weight of the parents.
    """
    origin = base.astype(jnp.float32)  # arithmetic in float32, one rounding at the end
    task_vectors = jnp.stack([parent.astype(jnp.float32) - origin for parent in parents])
    largest = jnp.argmax(jnp.abs(task_vectors), axis=0, keepdims=True)
    change = jnp.take_along_axis(task_vectors, largest, axis=0)[0]
    return (origin + change).astype(base.dtype)


def merge(base: acdc.Model, parents: Sequence[acdc.Model]) -> acdc.Model:
    """Merge models by `magmax`; sharded weights stay sharded."""
    merge_params = jax.jit(lambda *params: jax.tree.map(magmax, *params))
    child: acdc.Model = parents[0].replace(
        params=merge_params(base.params, *(parent.params for parent in parents)),
        config=base.config,
    )
    return child


if __name__ == "__main__":
    base_model, *models = map(acdc.load_hf, sys.argv[1:-1])
    acdc.save_hf(merge(base_model, models), sys.argv[-1])
