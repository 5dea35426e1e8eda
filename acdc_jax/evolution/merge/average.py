"""Merges that average whole parents: linear, slerp, model stock.

A child is r θ₀ + Σₚ cₚ θₚ. The methods differ in how the numbers r and c follow from the
coefficients and, for slerp and model stock, from the angles between the parents.

Task arithmetic: Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089; its
normalised form is the crossover of AC/DC, arXiv 2604.14969.
Slerp: Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
Model stock: Jang et al., "Model Stock: All we need is just a few fine-tuned models", arXiv
2403.19522.
"""

from collections.abc import Sequence
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.evolution.merge.options import MergeOptions

_STRAIGHT = 0.9995  # Above this cosine an arc is its chord, and float32 has no angle left.
_SINGULAR = 1e-6
_CANCELLED = (
    1e-5  # Below this share of their size, a sum may be 0 on one device and not on another.
)


def average(
    options: MergeOptions,
    base: Sequence[jax.Array],
    parents: Sequence[Sequence[jax.Array]],
    coefficients: jax.Array,
    *,
    reads_base: bool = True,
) -> tuple[jax.Array, ...]:
    """Merge weights; float32 inside, rounded once to the base's dtype.

    The numbers of all weights are computed together: a program for each would be launched, and
    compiled, hundreds of times.

    Args:
        options: A method that averages.
        base: θ₀, W arrays.
        parents: P sequences of arrays shaped like them.
        coefficients: [P, W] float32.
        reads_base: From `needs_base`; False saves a stream through memory.

    Returns:
        The child's weights.
    """
    rows = coefficients.T
    if options.method == "linear":
        rest, shares = jax.vmap(partial(_linear, normalise=options.normalise))(rows)
    elif options.method == "slerp":
        exact = [[parent[i].astype(jnp.float32) for parent in parents] for i in range(len(base))]
        rest, shares = jax.vmap(_slerp)(jnp.stack([_products(each) for each in exact]), rows)
    else:
        taus = [
            [parent[i].astype(jnp.float32) - start.astype(jnp.float32) for parent in parents]
            for i, start in enumerate(base)
        ]
        rest, shares = jax.vmap(_model_stock)(jnp.stack([_products(each) for each in taus]), rows)

    def combine(i: int) -> jax.Array:
        terms = [shares[i, p] * parent[i].astype(jnp.float32) for p, parent in enumerate(parents)]
        if reads_base:
            terms = [rest[i] * base[i].astype(jnp.float32), *terms]
        return reduce(add, terms).astype(base[i].dtype)

    return tuple(combine(i) for i in range(len(base)))


def needs_base(options: MergeOptions, coefficients: npt.NDArray[np.float32]) -> bool:
    """Return whether θ₀ has a share in merges by these coefficients [..., P, G], on the host.

    Normalised merges and slerp are sums of parents alone, unless coefficients cancel out.
    """
    if not (options.averages and options.normalise) or options.method == "model_stock":
        return True
    total, size = coefficients.sum(-2), np.abs(coefficients).sum(-2)
    return bool((np.abs(total) <= _CANCELLED * size).any())


def _linear(coefficients: jax.Array, normalise: bool) -> tuple[jax.Array, jax.Array]:
    """Compute θ₀ + Σ w τ as (1 - Σ w) θ₀ + Σ w θ: a single parent with w = 1 returns unchanged."""
    total = coefficients.sum()
    if not normalise:
        return 1 - total, coefficients
    # r is exactly 0 or 1, and not what rounding leaves of 1 - Σ w / Σ w: θ₀ drops out of this form.
    return (total == 0).astype(jnp.float32), _over(coefficients, total)


def _slerp(products: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Move from one parent to the next along great circles, by the share of the next one.

    The k-th step goes wₖ / (w₁ + … + wₖ) of the way from the merge so far to parent k; with
    two parents, w₂ / (w₁ + w₂) of the way between them. The order of three or more matters.

    Args:
        products: θᵢ·θⱼ, [P, P].
        coefficients: [P].
    """
    merged, total = jnp.zeros_like(coefficients), jnp.float32(0)
    for p, coefficient in enumerate(coefficients):
        total = total + coefficient
        t = _over(coefficient, total)
        norms = jnp.sqrt(merged @ products @ merged) * jnp.sqrt(products[p, p])
        cosine = jnp.clip(_over(products[p] @ merged, norms), -1, 1)
        straight = (jnp.abs(cosine) > _STRAIGHT) | (t == 0) | (t == 1)
        angle = jnp.arccos(jnp.where(straight, 0, cosine))
        left = jnp.where(straight, 1 - t, jnp.sin((1 - t) * angle) / jnp.sin(angle))
        right = jnp.where(straight, t, jnp.sin(t * angle) / jnp.sin(angle))
        merged = (left * merged).at[p].add(right)
    return (merged == 0).all().astype(jnp.float32), merged


def _model_stock(products: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the weighted mean, drawn towards θ₀ by t = n cos θ / (1 + (n - 1) cos θ).

    cos θ is the mean cosine between the task vectors of the n parents that have a coefficient;
    equal coefficients are the paper's mean. A single parent has t = 1.

    Args:
        products: τᵢ·τⱼ, [P, P].
        coefficients: [P].
    """
    present = coefficients != 0
    norms = jnp.sqrt(jnp.diagonal(products))
    cosines = jnp.clip(_over(products, norms[:, None] * norms[None, :]), -1, 1)
    pairs = jnp.triu(present[:, None] & present[None, :], 1)
    cosine = _over(jnp.where(pairs, cosines, 0).sum(), pairs.sum().astype(jnp.float32))
    n = present.sum().astype(jnp.float32)
    below = 1 + (n - 1) * cosine
    t = jnp.where(below < _SINGULAR, 0, n * cosine / jnp.maximum(below, _SINGULAR))
    t = jnp.where(n == 1, 1, t)
    total = coefficients.sum()
    t = jnp.where(total == 0, 0, t)
    return 1 - t, t * _over(coefficients, total)


def _products(vectors: Sequence[jax.Array]) -> jax.Array:
    """Return all inner products, [P, P] float32, in one pass."""
    n = len(vectors)
    upper = {(i, j): (vectors[i] * vectors[j]).sum() for i in range(n) for j in range(i, n)}
    rows = [jnp.stack([upper[min(i, j), max(i, j)] for j in range(n)]) for i in range(n)]
    return jnp.stack(rows)


def _over(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Return the quotient, or 0 where the denominator is 0."""
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
