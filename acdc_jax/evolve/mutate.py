"""Noise on the projection weights of a model: on their singular values, or on every entry.

SVD mutation: AC/DC, arXiv 2604.14969, after CycleQD (Kuroki et al., arXiv 2410.14735).
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.model.transformer import Weights


@dataclass(frozen=True)
class Mutation:
    """What is done to a child after the merge.

    Attributes:
        kind: "svd" (`svd_noise`) or "gaussian" (`gaussian_noise`).
        scale: Standard deviation of the noise.
        rank: How many singular values are perturbed; "svd" only.
        relative: `scale` is in units of the singular value ("svd") or of the weight's
            root mean square ("gaussian") instead of absolute.
        embeddings: Token embeddings and a separate output head are mutated too.
    """

    kind: Literal["svd", "gaussian"] = "svd"
    scale: float = 0.25
    rank: int = 256
    relative: bool = False
    embeddings: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that no mutation can have."""
        if self.kind not in ("svd", "gaussian"):
            raise ConfigError(f"unknown mutation {self.kind!r}: choose svd or gaussian")
        if not 0 <= self.scale < float("inf"):
            raise ConfigError(f"mutation scale {self.scale} must be finite and at least 0")
        if self.rank < 1:
            raise ConfigError(f"mutation rank {self.rank} must be at least 1")


def mutated_paths(paths: Iterable[str], *, embeddings: bool) -> tuple[str, ...]:
    """Chooses the weights that a mutation changes: 2-D projections, never norms or biases.

    The first pattern that matches a path decides. Tied embeddings are one path, hence mutated
    once.
    """
    rules = (
        ("embed.weight", embeddings),
        ("head.weight", embeddings),
        ("*norm.weight", False),
        ("*.weight", True),
        ("*", False),
    )

    def selected(path: str) -> bool:
        return next(chosen for pattern, chosen in rules if fnmatchcase(path, pattern))

    return tuple(path for path in paths if selected(path))


def svd_noise(
    weights: Weights,
    key: jax.Array,
    *,
    scale: float,
    rank: int,
    relative: bool,
    embeddings: bool,
) -> Weights:
    """Perturbs singular values: σⱼ ← max(σⱼ + s εⱼ, 0) for the `rank` largest, εⱼ ~ N(0, 1).

    The decomposition is exact and float32; only its change is added to the weight, with one
    rounding, so that what lies beyond `rank` stays as it was.

    Args:
        weights: One model. For a population use `mutate_children`, which says why not `vmap`.
        key: Typed PRNG key. Every path draws from its own, whatever else is selected.
        scale: s; absolute, as in the paper.
        rank: Singular values perturbed per weight; all of them where there are fewer.
        relative: Uses s σⱼ in place of s.
        embeddings: Includes embeddings and a separate head.

    Returns:
        The mutated weights. Leaves that are not selected are the same arrays.

    Raises:
        AcdcError: A selected weight has a leading axis.
    """
    return mutate_child(weights, key, Mutation("svd", scale, rank, relative, embeddings))


def gaussian_noise(
    weights: Weights, key: jax.Array, *, scale: float, relative: bool, embeddings: bool
) -> Weights:
    """Adds s ε to every entry of the selected weights, ε ~ N(0, 1), rounding once.

    Arguments and result are as in `svd_noise`; `relative` uses s times the root mean square of
    the weight in place of s.
    """
    return mutate_child(
        weights,
        key,
        Mutation("gaussian", scale, relative=relative, embeddings=embeddings),
    )


def mutate_child(weights: Weights, key: jax.Array, mutation: Mutation) -> Weights:
    """Applies `mutation` to one model, as `svd_noise` or `gaussian_noise` describe it."""
    mutated = dict(weights)
    for path in mutated_paths(weights, embeddings=mutation.embeddings):
        weight = weights[path]
        if weight.ndim != 2:
            # A leading axis would otherwise share one draw among the members.
            raise AcdcError(f"weight {path!r} of shape {weight.shape} is not a matrix")
        leaf = _mutate_one(weight, key, _hash(path), mutation)
        mutated[path] = jax.device_put(leaf, weight.sharding)
        if mutation.kind == "svd" and all(d.platform == "cpu" for d in weight.devices()):
            mutated[path].block_until_ready()  # `mutate_children` says why
    return mutated


def mutate_children(weights: Weights, keys: jax.Array, mutation: Mutation) -> Weights:
    """Mutates all children of a generation: one jitted call per weight, one compilation per shape.

    On a CPU the decompositions run one after the other. Batched ones, several at once, wait for
    each other in XLA's thread pool, forever where it has two threads (seen with jax 0.10.2), and
    were no faster where they did not. OPENBLAS_NUM_THREADS=1 keeps a busy machine from slowing
    them down a hundredfold, at no cost on an idle one.

    Args:
        weights: Weights with a leading axis C.
        keys: Typed PRNG keys, [C].
        mutation: What to do.

    Returns:
        Weights with a leading axis C, sharded as they came. Leaves that are not selected are the
        same arrays.
    """
    mutated = dict(weights)
    for path in mutated_paths(weights, embeddings=mutation.embeddings):
        weight = weights[path]
        on_cpu = all(device.platform == "cpu" for device in weight.devices())
        one_by_one = on_cpu and mutation.kind == "svd"
        leaf = _mutate_leaves(weight, keys, _hash(path), mutation, one_by_one)
        mutated[path] = jax.device_put(leaf, weight.sharding)
        if one_by_one:
            mutated[path].block_until_ready()
    return mutated


@partial(jax.jit, static_argnames=("mutation", "one_by_one"))
def _mutate_leaves(
    weight: jax.Array, keys: jax.Array, path: np.uint32, mutation: Mutation, one_by_one: bool
) -> jax.Array:
    def mutate(weight: jax.Array, key: jax.Array) -> jax.Array:
        return _mutate_leaf(weight, jax.random.fold_in(key, path), mutation)

    if one_by_one:
        mutated: jax.Array = jax.lax.map(lambda child: mutate(*child), (weight, keys))
        return mutated
    return jax.vmap(mutate)(weight, keys)


@partial(jax.jit, static_argnames="mutation")
def _mutate_one(
    weight: jax.Array, key: jax.Array, path: np.uint32, mutation: Mutation
) -> jax.Array:
    return _mutate_leaf(weight, jax.random.fold_in(key, path), mutation)


def _mutate_leaf(weight: jax.Array, key: jax.Array, mutation: Mutation) -> jax.Array:
    exact = weight.astype(jnp.float32)
    if mutation.kind == "svd":
        change = _svd_change(exact, key, mutation)
    else:
        change = mutation.scale * jax.random.normal(key, exact.shape, jnp.float32)
        if mutation.relative:
            change = change * jnp.sqrt(jnp.mean(jnp.square(exact)))
    return (exact + change).astype(weight.dtype)


def _svd_change(weight: jax.Array, key: jax.Array, mutation: Mutation) -> jax.Array:
    u, sigma, vt = jnp.linalg.svd(weight, full_matrices=False)
    u, sigma, vt = u[:, : mutation.rank], sigma[: mutation.rank], vt[: mutation.rank]
    noise = mutation.scale * jax.random.normal(key, sigma.shape, jnp.float32)
    perturbed = jnp.maximum(sigma + (noise * sigma if mutation.relative else noise), 0)
    return jnp.matmul(u * (perturbed - sigma)[None, :], vt, precision="highest")


def _hash(path: str) -> np.uint32:
    # Not the path's position: the draw of one weight does not depend on which others there are.
    return np.uint32(zlib.crc32(path.encode()))
