"""Linear crossover of weight trees, with one coefficient per parent and merge group.

Task arithmetic: Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089.
The normalised form is the crossover of AC/DC, arXiv 2604.14969.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from acdc_jax.errors import AcdcError
from acdc_jax.model.transformer import Weights


@dataclass(frozen=True)
class Merge:
    """How a child is made of its parents.

    Attributes:
        method: "linear".
        normalise: Task vectors are divided by the sum of their coefficients.
    """

    method: Literal["linear"] = "linear"
    normalise: bool = True


Granularity = Literal["global", "layer", "module"]
Groups = tuple[tuple[str, int], ...]

# First match wins; the captured layer number, where there is one, becomes part of the name.
_MODULES = (
    (re.compile(r"embed\.weight"), "embedding"),
    (re.compile(r"layers\.(\d+)\.(?:attention\..+|attention_norm\.weight)"), "attention"),
    (re.compile(r"layers\.(\d+)\.(?:mlp\..+|mlp_norm\.weight)"), "mlp"),
    (re.compile(r"(?:norm|head)\.weight"), "head"),
)


def module_groups(
    paths: Iterable[str], granularity: Granularity
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Assigns every weight to the merge group whose coefficient it takes.

    Args:
        paths: Weight paths, such as `layers.0.attention.q.weight`.
        granularity: "global" (one group), "layer" (embedding, each layer, head) or "module"
            (embedding, attention and MLP of each layer with its norm, head). The head is the final
            norm and, where the model has one of its own, the output projection.

    Returns:
        The names of the groups from input to output, and the group's index of each path.

    Raises:
        AcdcError: A path belongs to no module.
    """
    found: dict[str, tuple[int, str]] = {}
    for path in paths:
        module, layer = _module(path)
        if granularity == "global":
            found[path] = (0, "all")
        elif layer is None:
            found[path] = (-1 if module == "embedding" else 1 << 30, module)
        else:
            found[path] = (layer, f"layer {layer}" + f" {module}" * (granularity == "module"))
    names = tuple(name for _, name in sorted(set(found.values())))
    return names, {path: names.index(name) for path, (_, name) in found.items()}


def _module(path: str) -> tuple[str, int | None]:
    for pattern, module in _MODULES:
        if match := pattern.fullmatch(path):
            return module, int(match.group(1)) if match.groups() else None
    raise AcdcError(f"weight {path!r} belongs to no module that can be merged")


def linear(
    base: Weights,
    parents: Sequence[Weights],
    coefficients: jax.Array,
    *,
    groups: Mapping[str, int],
    normalise: bool,
) -> Weights:
    """Adds weighted task vectors to the base: θ = θ₀ + Σₚ wₚ τₚ (/ Σₚ wₚ), with τₚ = θₚ - θ₀.

    It is computed as (1 - Σ w) θ₀ + Σ w θₚ, so that one parent with coefficient 1 comes back bit
    for bit. Arithmetic is float32 and rounds once, to the base's dtype.

    Args:
        base: Weights θ₀.
        parents: P trees with the base's paths and shapes. A parent with coefficient 0 counts for
            nothing as long as its weights are finite.
        coefficients: w, [P, G] float32.
        groups: Index into G of each path, from `module_groups`.
        normalise: Divides by Σₚ w of the group. A group whose coefficients cancel keeps θ₀.

    Returns:
        The child's weights, in the base's shapes and dtypes.

    Raises:
        AcdcError: A tree lacks a path, or has one that the others do not have.
    """
    for tree in (*parents, groups):
        if odd := base.keys() ^ tree.keys():
            raise AcdcError(f"weight {min(odd)!r} is missing from a model that is to be merged")
    total = coefficients.sum(axis=0)
    remainder = 1 - total
    if normalise:
        cancels = total == 0
        # Exactly 0, and not what rounding leaves of 1 - Σ w / Σ w: θ₀ drops out of this form.
        remainder = cancels.astype(jnp.float32)
        coefficients = coefficients / jnp.where(cancels, jnp.float32(jnp.inf), total)[None, :]

    def merge(path: str) -> jax.Array:
        group = groups[path]
        merged = remainder[group] * base[path].astype(jnp.float32)
        for p, parent in enumerate(parents):
            merged = merged + coefficients[p, group] * parent[path].astype(jnp.float32)
        return merged.astype(base[path].dtype)

    return {path: merge(path) for path in base}


def merge_child(
    merge: Merge,
    base: Weights,
    parents: Sequence[Weights],
    coefficients: jax.Array,
    key: jax.Array,
    groups: Mapping[str, int],
) -> Weights:
    """Makes one child, in one jitted call.

    Args:
        merge: How.
        base: Weights θ₀.
        parents: P trees.
        coefficients: w, [P, G] float32.
        key: Typed PRNG key, for methods that draw.
        groups: As in `linear`.

    Returns:
        The child's weights, sharded like the parents.
    """
    static = tuple(sorted(groups.items()))
    child: Weights = _merge_child(base, tuple(parents), coefficients, static, merge.normalise)
    return child


@partial(jax.jit, static_argnames=("groups", "normalise"))
def _merge_child(
    base: Weights,
    parents: tuple[Weights, ...],
    coefficients: jax.Array,
    groups: Groups,
    normalise: bool,
) -> Weights:
    return linear(base, parents, coefficients, groups=dict(groups), normalise=normalise)


def linear_children(
    base: Weights,
    parents: Sequence[Weights],
    coefficients: jax.Array,
    *,
    groups: Mapping[str, int],
    normalise: bool,
) -> Weights:
    """Merges all children of a generation in one jitted call: `linear` under `vmap`.

    Args:
        base: Weights θ₀, without a leading axis.
        parents: P trees whose leaves have a leading axis C: row c is the parent of child c.
        coefficients: w, [C, P, G] float32.
        groups: As in `linear`.
        normalise: As in `linear`.

    Returns:
        Weights with a leading axis C, sharded like the parents.
    """
    static = tuple(sorted(groups.items()))
    children: Weights = _linear_children(base, tuple(parents), coefficients, static, normalise)
    return children


@partial(jax.jit, static_argnames=("groups", "normalise"))
def _linear_children(
    base: Weights,
    parents: tuple[Weights, ...],
    coefficients: jax.Array,
    groups: Groups,
    normalise: bool,
) -> Weights:
    merge = partial(linear, groups=dict(groups), normalise=normalise)
    return jax.vmap(merge, in_axes=(None, 0, 0))(base, parents, coefficients)
