"""Noise on the projection weights of a model: on their singular values, or on every entry.

SVD mutation: AC/DC, arXiv 2604.14969, after CycleQD (Kuroki et al., arXiv 2410.14735).
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.evolution.svd import (
    OVERSAMPLING,
    exact_noise,
    gram,
    leading,
    randomised_noise,
    stretched,
)
from acdc_jax.options import OptionError, check, option
from acdc_jax.params import Params

_GROUP_BYTES = 2 << 30  # Of Gram matrices that one call works on.

Decomposition = Literal["auto", "exact", "randomised"]


@dataclass(frozen=True)
class SVDNoise:
    """Noise on singular values: σⱼ ← max(σⱼ + s εⱼ, 0) with ε ~ N(0, 1).

    Attributes:
        scale: s, the standard deviation of the noise; absolute in the paper.
        rank: How many of the largest singular values of each weight are perturbed.
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


def mutate_child(weights: Params, key: jax.Array, noise: Noise, *, donate: bool = False) -> Params:
    """Mutates one model. Only a change is added to a weight, in float32, with one rounding.

    Weights of one shape that take the randomised decomposition go together, as many as a few GB
    hold, since small decompositions are faster in batches. The others go one by one.

    Args:
        weights: One model. For a population use `mutate_children`.
        key: Typed PRNG key. Every path draws from its own, whatever else is selected.
        noise: The kind of noise and its options.
        donate: Overwrites the selected weights, which must not be used again: the peak is then one
            model and one group's temporaries, instead of two models.

    Returns:
        The mutated weights. Leaves that are not selected are the same arrays.

    Raises:
        ValueError: A selected weight has a leading axis.
    """
    mutated = dict(weights)
    for paths in _groups(weights, noise):
        leaves = [mutated.pop(path) for path in paths]
        sharding, one_by_one = leaves[0].sharding, _on_cpu(leaves[0])
        hashes = np.array([_hash(path) for path in paths])
        if len(paths) == 1:
            mutate = _mutate_one_in_place if donate else _mutate_one
            changed = [mutate(leaves[0], key, hashes[0], noise)]
        else:
            assert isinstance(noise, SVDNoise)
            stretch = _stretched_in_place if donate else _stretched
            found = _leading(tuple(_gram(leaf) for leaf in leaves), key, hashes, noise)
            changed = [stretch(leaf, *found, np.int32(i)) for i, leaf in enumerate(leaves)]
        for path, leaf in zip(paths, changed, strict=True):
            mutated[path] = jax.device_put(leaf, sharding)
        if one_by_one:
            mutated[paths[0]].block_until_ready()  # see `mutate_children`
    return {path: mutated[path] for path in weights}


def mutate_children(weights: Params, keys: jax.Array, noise: Noise) -> Params:
    """Mutates all children of a generation: one jitted call per weight, one compilation per shape.

    Each child is mutated as `mutate_child` would with its key.

    On a CPU the decompositions run one after the other. Batched ones, several at once, wait for
    each other in XLA's thread pool, forever where it has two threads (seen with jax 0.10.2), and
    were no faster where they did not. OPENBLAS_NUM_THREADS=1 keeps a busy machine from slowing
    them down a hundredfold, at no cost on an idle one.

    Args:
        weights: Params with a leading axis C.
        keys: Typed PRNG keys, [C].
        noise: The kind of noise and its options.

    Returns:
        Weights with a leading axis C, sharded as they came. Leaves that are not selected are the
        same arrays.
    """
    mutated = dict(weights)
    for path in mutated_paths(weights, embeddings=noise.embeddings):
        weight = weights[path]
        one_by_one = _on_cpu(weight) and isinstance(noise, SVDNoise)
        leaf = _mutate_leaves(weight, keys, _hash(path), noise, one_by_one)
        mutated[path] = jax.device_put(leaf, weight.sharding)
        if one_by_one:
            mutated[path].block_until_ready()
    return mutated


def _groups(weights: Params, noise: Noise) -> Iterator[tuple[str, ...]]:
    """Selected paths that are mutated in one call: equal in shape, dtype and sharding."""

    def kind(path: str) -> tuple[str, ...]:
        leaf = weights[path]
        return str(leaf.shape), str(leaf.dtype), str(leaf.sharding)

    paths = mutated_paths(weights, embeddings=noise.embeddings)
    for path in paths:
        if weights[path].ndim != 2:
            # A leading axis would otherwise share one draw among the members.
            raise ValueError(f"weight {path!r} of shape {weights[path].shape} is not a matrix")
    for _, equal in groupby(sorted(paths, key=kind), kind):
        alike = list(equal)
        leaf, most = weights[alike[0]], 1
        if isinstance(noise, SVDNoise) and noise.randomises(leaf) and not _on_cpu(leaf):
            most = max(1, _GROUP_BYTES // (4 * min(leaf.shape) ** 2))
        groups = -(-len(alike) // most)
        size = -(-len(alike) // groups)  # nearly one size: few compilations
        yield from (tuple(alike[i : i + size]) for i in range(0, len(alike), size))


def _mutate_path(weight: jax.Array, key: jax.Array, path: np.uint32, noise: Noise) -> jax.Array:
    return mutate_leaf(weight, jax.random.fold_in(key, path), noise)


def _stretched_by(
    weight: jax.Array, vectors: jax.Array, stretch: jax.Array, i: np.int32
) -> jax.Array:
    return stretched(weight, vectors[i], stretch[i])


@partial(jax.jit, static_argnames="noise")
def _leading(
    grams: tuple[jax.Array, ...], key: jax.Array, paths: jax.Array, noise: SVDNoise
) -> tuple[jax.Array, jax.Array]:
    keys = jax.vmap(partial(jax.random.fold_in, key))(paths)
    find = jax.vmap(partial(leading, noise=noise))
    found: tuple[jax.Array, jax.Array] = find(jnp.stack(grams), keys)
    return found


# Small programs, compiled once per shape: one of a whole group takes minutes to compile.
_gram = jax.jit(gram)
_stretched = jax.jit(_stretched_by)
_stretched_in_place = jax.jit(_stretched_by, donate_argnums=0)
_mutate_one = jax.jit(_mutate_path, static_argnames="noise")
_mutate_one_in_place = jax.jit(_mutate_path, static_argnames="noise", donate_argnums=0)


@partial(jax.jit, static_argnames=("noise", "one_by_one"))
def _mutate_leaves(
    weight: jax.Array, keys: jax.Array, path: np.uint32, noise: Noise, one_by_one: bool
) -> jax.Array:
    def mutate(weight: jax.Array, key: jax.Array) -> jax.Array:
        return _mutate_path(weight, key, path, noise)

    if one_by_one:
        mutated: jax.Array = jax.lax.map(lambda child: mutate(*child), (weight, keys))
        return mutated
    return jax.vmap(mutate)(weight, keys)


def mutate_leaf(weight: jax.Array, key: jax.Array, noise: Noise) -> jax.Array:
    """Mutates one matrix [m, n] with its own key; under jit."""
    if isinstance(noise, SVDNoise):
        mutate = randomised_noise if noise.randomises(weight) else exact_noise
        return mutate(weight, key, noise)
    exact = weight.astype(jnp.float32)
    change = noise.scale * jax.random.normal(key, exact.shape, jnp.float32)
    if noise.relative:
        change = change * jnp.sqrt(jnp.mean(jnp.square(exact)))
    return (exact + change).astype(weight.dtype)


def _on_cpu(weight: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in weight.devices())


def _hash(path: str) -> np.uint32:
    # Not the path's position: the draw of one weight does not depend on which others there are.
    return np.uint32(zlib.crc32(path.encode()))
