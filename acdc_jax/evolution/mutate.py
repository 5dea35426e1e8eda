"""Mutation: noise on the projections of a model, on their singular values or on every entry.

Source: AC/DC, arXiv 2604.14969, after CycleQD (Kuroki et al., arXiv 2410.14735).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from acdc_jax.evolution.svd import (
    OVERSAMPLING,
    exact_noise,
    gram,
    leading,
    randomised_noise,
    stretched,
)
from acdc_jax.options import OptionError, check, option
from acdc_jax.params import Params, Tree, named_leaves, path_hashes

_BATCH_BYTES = 2 << 30  # of Gram matrices that one call works on

Decomposition = Literal["auto", "exact", "randomised"]


@dataclass(frozen=True)
class SVDNoise:
    """Noise on singular values: σⱼ ← max(σⱼ + s εⱼ, 0) with ε ~ N(0, 1).

    Attributes:
        scale: s, the standard deviation of the noise; absolute in the paper.
        rank: Number of the largest singular values of each weight to perturb.
        relative: Whether `scale` is in units of the singular value.
        embeddings: Whether token embeddings and a separate output head are mutated too.
        decomposition: "exact", "randomised" (`svd.leading` states its error), or "auto": randomised
            for matrices that are larger than the subspace it searches, exact for the others.
    """

    scale: float = option(0.25, "Standard deviation of the noise.", low=0)
    rank: int = option(256, "Singular values of each weight that are perturbed.", low=1)
    relative: bool = option(False, "Scale the noise by the singular value.")
    embeddings: bool = option(False, "Mutate embeddings and the output head too.")
    decomposition: Decomposition = option("auto", "How singular values are found.")

    kind: ClassVar[str] = "svd"

    def __post_init__(self) -> None:
        check(self)

    def randomises(self, weight: jax.Array) -> bool:
        """Return whether a weight [..., m, n] is mutated through its leading subspace.

        Raises:
            ValueError: `decomposition` is "randomised", and the weight is too small for it.
        """
        if self.decomposition == "exact":
            return False
        fits = min(weight.shape[-2:]) >= self.rank + OVERSAMPLING
        if self.decomposition == "randomised" and not fits:
            raise ValueError(
                f"a weight of shape {weight.shape[-2:]} is too small for a randomised "
                f"decomposition of {self.rank} + {OVERSAMPLING} directions: lower the rank, or use "
                "decomposition auto"
            )
        return fits


@dataclass(frozen=True)
class GaussianNoise:
    """Noise on every entry: w ← w + s ε with ε ~ N(0, 1).

    Attributes:
        scale: s, the standard deviation of the noise.
        relative: Whether `scale` is in units of the weight's root mean square.
        embeddings: Whether token embeddings and a separate output head are mutated too.
    """

    scale: float = option(0.25, "Standard deviation of the noise.", low=0)
    relative: bool = option(False, "Scale the noise by the weight's root mean square.")
    embeddings: bool = option(False, "Mutate embeddings and the output head too.")

    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        check(self)


Noise = SVDNoise | GaussianNoise


@dataclass(frozen=True)
class MutationOptions:
    """The mutation of a child, by name; `noise` returns the operator.

    Attributes:
        kind: Kind of noise, or None for no mutation.
        scale: See `SVDNoise` and `GaussianNoise`, as for the others.
        rank: Applies to "svd".
        relative: Applies to both kinds.
        embeddings: Applies to both kinds.
        decomposition: Applies to "svd".
    """

    kind: Literal["svd", "gaussian"] | None = option(
        "svd",
        "Noise on each child after the merge: svd (on singular values, the paper's), gaussian (on "
        "every weight), or none.",
    )
    scale: float = option(0.25, "Standard deviation of the mutation's noise.")
    rank: int = option(256, "Singular values of each weight that svd perturbs.")
    relative: bool = option(
        False, "Scale the noise by the singular value (svd) or the weight's spread (gaussian)."
    )
    embeddings: bool = option(True, "Mutate embeddings and the output head too.")
    decomposition: Decomposition = option(
        "auto",
        "How svd finds singular values: exact, randomised (leading ones only, much faster), or "
        "auto (randomised for matrices with many more than are perturbed).",
    )

    def __post_init__(self) -> None:
        check(self)
        try:
            self.noise()
        except OptionError as error:
            raise OptionError(self, error.field, error.rule) from None

    def noise(self) -> Noise | None:
        """Return the mutation, or None."""
        if self.kind == "svd":
            return SVDNoise(
                self.scale, self.rank, self.relative, self.embeddings, self.decomposition
            )
        if self.kind == "gaussian":
            return GaussianNoise(self.scale, self.relative, self.embeddings)
        return None


def mutated_paths(paths: Iterable[str], *, embeddings: bool) -> tuple[str, ...]:
    """Return the paths that a mutation changes: matrices of projections, never norms or biases.

    The first pattern that matches a path decides. Tied embeddings are one path and mutated once.
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


def mutate(tree: Tree, key: Key[jax.Array, ""], noise: Noise, *, donate: bool = False) -> Tree:
    """Mutate a model's projections. Each change is computed in float32 and added with one rounding.

    Weights of one shape whose decomposition is randomised go together, as many as a few GB hold,
    because small decompositions are faster in batches. The others go one by one.

    Args:
        tree: Any pytree of arrays; `mutated_paths` says which of its leaves change.
        key: PRNG key. Every path draws from its own part of it, whatever other paths change.
        noise: `SVDNoise` or `GaussianNoise`.
        donate: Overwrites the selected leaves, which must not be used again: the peak is then one
            model and one batch's temporaries, instead of two models.

    Returns:
        The mutated tree, sharded as it was. Leaves that are not selected are the same arrays.

    Raises:
        ValueError: No leaf is selected; or a selected leaf is not a matrix, or too small for the
            decomposition.
    """
    weights, unflatten = named_leaves(tree)
    if not mutated_paths(weights, embeddings=noise.embeddings):
        raise ValueError("no leaf is a projection: their paths are like layers.0.mlp.up.weight")
    mutated = dict(weights)
    for paths in _batches(weights, noise):
        leaves = [mutated.pop(path) for path in paths]
        sharding, on_cpu = leaves[0].sharding, _on_cpu(leaves[0])
        hashes = path_hashes(paths)
        with jax.named_scope("mutate"):
            changed = _mutate_batch(leaves, key, hashes, noise, donate)
        for path, leaf in zip(paths, changed, strict=True):
            mutated[path] = jax.device_put(leaf, sharding)
        if on_cpu and isinstance(noise, SVDNoise):
            # Decompositions at once wait for each other in XLA's thread pool, forever where it has
            # two threads (seen with jax 0.10.2).
            mutated[paths[0]].block_until_ready()
    return unflatten(mutated[path] for path in weights)


def _mutate_batch(
    leaves: Sequence[jax.Array], key: jax.Array, hashes: np.ndarray, noise: Noise, donate: bool
) -> list[jax.Array]:
    if len(leaves) == 1 or not isinstance(noise, SVDNoise):
        mutate_path = _mutate_in_place if donate else _mutate
        return [
            mutate_path(leaf, key, salt, noise) for leaf, salt in zip(leaves, hashes, strict=True)
        ]
    stretch = _stretch_in_place if donate else _stretch
    subspaces = _find_subspaces(tuple(map(_gram, leaves)), key, hashes, noise)
    return [stretch(leaf, *subspaces, np.int32(i)) for i, leaf in enumerate(leaves)]


def _batches(weights: Params, noise: Noise) -> Iterator[tuple[str, ...]]:
    """Yield selected paths that are mutated together: equal in shape, dtype and sharding."""

    def kind(path: str) -> tuple[str, ...]:
        leaf = weights[path]
        return str(leaf.shape), str(leaf.dtype), str(leaf.sharding)

    paths = mutated_paths(weights, embeddings=noise.embeddings)
    for path in paths:
        if weights[path].ndim != 2:
            # A leading axis would otherwise share one draw among the members.
            raise ValueError(f"weight {path!r} of shape {weights[path].shape} is not a matrix")
    for _, group in groupby(sorted(paths, key=kind), kind):
        alike = list(group)
        leaf, most = weights[alike[0]], 1
        if isinstance(noise, SVDNoise) and noise.randomises(leaf) and not _on_cpu(leaf):
            most = max(1, _BATCH_BYTES // (4 * min(leaf.shape) ** 2))
        batches = -(-len(alike) // most)
        size = -(-len(alike) // batches)  # nearly one size: few compilations
        yield from (tuple(alike[i : i + size]) for i in range(0, len(alike), size))


def mutate_leaf(weight: Float[Array, "m n"], key: jax.Array, noise: Noise) -> Float[Array, "m n"]:
    """Mutate one matrix with its own key; a part of jitted programs."""
    with jax.named_scope("mutate"):
        if isinstance(noise, SVDNoise):
            add_noise = randomised_noise if noise.randomises(weight) else exact_noise
            return add_noise(weight, key, noise)
        exact = weight.astype(jnp.float32)
        change = noise.scale * jax.random.normal(key, exact.shape, jnp.float32)
        if noise.relative:
            change = change * jnp.sqrt(jnp.mean(jnp.square(exact)))
        return (exact + change).astype(weight.dtype)


def _mutate_path(
    weight: jax.Array, key: jax.Array, path: jax.Array, noise: Noise
) -> Float[Array, "m n"]:
    return mutate_leaf(weight, jax.random.fold_in(key, path), noise)


def _stretch_row(
    weight: jax.Array, vectors: jax.Array, stretch: jax.Array, i: jax.Array
) -> jax.Array:
    with jax.named_scope("mutate"):
        return stretched(weight, vectors[i], stretch[i])


@partial(jax.jit, static_argnames="noise")
def _find_subspaces(
    grams: tuple[jax.Array, ...], key: jax.Array, paths: jax.Array, noise: SVDNoise
) -> tuple[jax.Array, jax.Array]:
    with jax.named_scope("mutate"):
        keys = jax.vmap(partial(jax.random.fold_in, key))(paths)
        return jax.vmap(partial(leading, noise=noise))(jnp.stack(grams), keys)


# Small programs, compiled once per shape: one of a whole batch takes minutes to compile.
_gram = jax.jit(gram)
_stretch = jax.jit(_stretch_row)
_stretch_in_place = jax.jit(_stretch_row, donate_argnums=0)
_mutate = jax.jit(_mutate_path, static_argnames="noise")
_mutate_in_place = jax.jit(_mutate_path, static_argnames="noise", donate_argnums=0)


def _on_cpu(weight: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in weight.devices())
