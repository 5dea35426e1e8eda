"""Noise on the projection weights of a model: on their singular values, or on every entry.

SVD mutation: AC/DC, arXiv 2604.14969, after CycleQD (Kuroki et al., arXiv 2410.14735).
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolution.svd import (
    OVERSAMPLING,
    exact_noise,
    gram,
    leading,
    randomised_noise,
    stretched,
)
from acdc_jax.params import Params

_GROUP_BYTES = 2 << 30  # Of Gram matrices that one call works on.


@dataclass(frozen=True)
class Mutation:
    """What is done to a child after the merge.

    Attributes:
        kind: "svd": σⱼ ← max(σⱼ + s εⱼ, 0) for the `rank` largest singular values of every weight;
            "gaussian": s ε is added to every entry; ε ~ N(0, 1).
        scale: s, standard deviation of the noise; absolute in the paper.
        rank: How many singular values are perturbed; "svd" only.
        relative: `scale` is in units of the singular value ("svd") or of the weight's
            root mean square ("gaussian") instead of absolute.
        embeddings: Token embeddings and a separate output head are mutated too.
        decomposition: "exact", "randomised" (`svd.leading` states its error), or "auto": randomised
            for matrices that are larger than the subspace it searches, exact for the others.
    """

    kind: Literal["svd", "gaussian"] = "svd"
    scale: float = 0.25
    rank: int = 256
    relative: bool = False
    embeddings: bool = False
    decomposition: Literal["auto", "exact", "randomised"] = "auto"

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that no mutation can have."""
        if self.kind not in ("svd", "gaussian"):
            raise ConfigError(f"unknown mutation {self.kind!r}: choose svd or gaussian")
        if not 0 <= self.scale < float("inf"):
            raise ConfigError(f"mutation scale {self.scale} must be finite and at least 0")
        if self.rank < 1:
            raise ConfigError(f"mutation rank {self.rank} must be at least 1")
        if self.decomposition not in ("auto", "exact", "randomised"):
            raise ConfigError(
                f"unknown decomposition {self.decomposition!r}: choose auto, exact or randomised"
            )
        if self.kind == "gaussian" and self.decomposition != "auto":
            raise ConfigError("gaussian mutation decomposes nothing: drop the decomposition")

    def randomises(self, weight: jax.Array) -> bool:
        """Whether a weight [..., m, n] is mutated through its leading subspace.

        Raises:
            AcdcError: It is to be, and has fewer directions than that.
        """
        if self.kind != "svd" or self.decomposition == "exact":
            return False
        fits = min(weight.shape[-2:]) >= self.rank + OVERSAMPLING
        if self.decomposition == "randomised" and not fits:
            raise AcdcError(
                f"a weight of shape {weight.shape[-2:]} has no {self.rank} + {OVERSAMPLING} "
                "directions for a randomised decomposition: lower the rank, or use auto"
            )
        return fits


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


def mutate_child(
    weights: Params, key: jax.Array, mutation: Mutation, *, donate: bool = False
) -> Params:
    """Mutates one model. Only a change is added to a weight, in float32, with one rounding.

    Weights of one shape that take the randomised decomposition go together, as many as a few GB
    hold, since small decompositions are faster in batches. The others go one by one.

    Args:
        weights: One model. For a population use `mutate_children`.
        key: Typed PRNG key. Every path draws from its own, whatever else is selected.
        mutation: What to do.
        donate: Overwrites the selected weights, which must not be used again: the peak is then one
            model and one group's temporaries, instead of two models.

    Returns:
        The mutated weights. Leaves that are not selected are the same arrays.

    Raises:
        AcdcError: A selected weight has a leading axis.
    """
    mutated = dict(weights)
    for paths in _groups(weights, mutation):
        leaves = [mutated.pop(path) for path in paths]
        sharding, one_by_one = leaves[0].sharding, _on_cpu(leaves[0])
        hashes = np.array([_hash(path) for path in paths])
        if len(paths) == 1:
            mutate = _mutate_one_in_place if donate else _mutate_one
            changed = [mutate(leaves[0], key, hashes[0], mutation)]
        else:
            stretch = _stretched_in_place if donate else _stretched
            found = _leading(tuple(_gram(leaf) for leaf in leaves), key, hashes, mutation)
            changed = [stretch(leaf, *found, np.int32(i)) for i, leaf in enumerate(leaves)]
        for path, leaf in zip(paths, changed, strict=True):
            mutated[path] = jax.device_put(leaf, sharding)
        if one_by_one:
            mutated[paths[0]].block_until_ready()  # see `mutate_children`
    return {path: mutated[path] for path in weights}


def mutate_children(weights: Params, keys: jax.Array, mutation: Mutation) -> Params:
    """Mutates all children of a generation: one jitted call per weight, one compilation per shape.

    Each child is mutated as `mutate_child` would with its key.

    On a CPU the decompositions run one after the other. Batched ones, several at once, wait for
    each other in XLA's thread pool, forever where it has two threads (seen with jax 0.10.2), and
    were no faster where they did not. OPENBLAS_NUM_THREADS=1 keeps a busy machine from slowing
    them down a hundredfold, at no cost on an idle one.

    Args:
        weights: Params with a leading axis C.
        keys: Typed PRNG keys, [C].
        mutation: What to do.

    Returns:
        Weights with a leading axis C, sharded as they came. Leaves that are not selected are the
        same arrays.
    """
    mutated = dict(weights)
    for path in mutated_paths(weights, embeddings=mutation.embeddings):
        weight = weights[path]
        one_by_one = _on_cpu(weight) and mutation.kind == "svd"
        leaf = _mutate_leaves(weight, keys, _hash(path), mutation, one_by_one)
        mutated[path] = jax.device_put(leaf, weight.sharding)
        if one_by_one:
            mutated[path].block_until_ready()
    return mutated


def _groups(weights: Params, mutation: Mutation) -> Iterator[tuple[str, ...]]:
    """Selected paths that are mutated in one call: equal in shape, dtype and sharding."""

    def kind(path: str) -> tuple[str, ...]:
        leaf = weights[path]
        return str(leaf.shape), str(leaf.dtype), str(leaf.sharding)

    paths = mutated_paths(weights, embeddings=mutation.embeddings)
    for path in paths:
        if weights[path].ndim != 2:
            # A leading axis would otherwise share one draw among the members.
            raise AcdcError(f"weight {path!r} of shape {weights[path].shape} is not a matrix")
    for _, equal in groupby(sorted(paths, key=kind), kind):
        alike = list(equal)
        leaf, most = weights[alike[0]], 1
        if mutation.randomises(leaf) and not _on_cpu(leaf):
            most = max(1, _GROUP_BYTES // (4 * min(leaf.shape) ** 2))
        groups = -(-len(alike) // most)
        size = -(-len(alike) // groups)  # nearly one size: few compilations
        yield from (tuple(alike[i : i + size]) for i in range(0, len(alike), size))


def _mutate_path(
    weight: jax.Array, key: jax.Array, path: np.uint32, mutation: Mutation
) -> jax.Array:
    return mutate_leaf(weight, jax.random.fold_in(key, path), mutation)


def _stretched_by(
    weight: jax.Array, vectors: jax.Array, stretch: jax.Array, i: np.int32
) -> jax.Array:
    return stretched(weight, vectors[i], stretch[i])


@partial(jax.jit, static_argnames="mutation")
def _leading(
    grams: tuple[jax.Array, ...], key: jax.Array, paths: jax.Array, mutation: Mutation
) -> tuple[jax.Array, jax.Array]:
    keys = jax.vmap(partial(jax.random.fold_in, key))(paths)
    find = jax.vmap(partial(leading, noise=mutation))
    found: tuple[jax.Array, jax.Array] = find(jnp.stack(grams), keys)
    return found


# Small programs, compiled once per shape: one of a whole group takes minutes to compile.
_gram = jax.jit(gram)
_stretched = jax.jit(_stretched_by)
_stretched_in_place = jax.jit(_stretched_by, donate_argnums=0)
_mutate_one = jax.jit(_mutate_path, static_argnames="mutation")
_mutate_one_in_place = jax.jit(_mutate_path, static_argnames="mutation", donate_argnums=0)


@partial(jax.jit, static_argnames=("mutation", "one_by_one"))
def _mutate_leaves(
    weight: jax.Array, keys: jax.Array, path: np.uint32, mutation: Mutation, one_by_one: bool
) -> jax.Array:
    def mutate(weight: jax.Array, key: jax.Array) -> jax.Array:
        return _mutate_path(weight, key, path, mutation)

    if one_by_one:
        mutated: jax.Array = jax.lax.map(lambda child: mutate(*child), (weight, keys))
        return mutated
    return jax.vmap(mutate)(weight, keys)


def mutate_leaf(weight: jax.Array, key: jax.Array, mutation: Mutation) -> jax.Array:
    """Mutates one matrix [m, n] with its own key; under jit."""
    if mutation.kind == "svd":
        mutate = randomised_noise if mutation.randomises(weight) else exact_noise
        return mutate(weight, key, mutation)
    exact = weight.astype(jnp.float32)
    change = mutation.scale * jax.random.normal(key, exact.shape, jnp.float32)
    if mutation.relative:
        change = change * jnp.sqrt(jnp.mean(jnp.square(exact)))
    return (exact + change).astype(weight.dtype)


def _on_cpu(weight: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in weight.devices())


def _hash(path: str) -> np.uint32:
    # Not the path's position: the draw of one weight does not depend on which others there are.
    return np.uint32(zlib.crc32(path.encode()))
