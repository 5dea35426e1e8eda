"""Merge and mutate models: `acdc_jax.evolution` on `Model`, `Params` and other pytrees."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.merge import merge as merge_trees
from acdc_jax.evolution.merge.options import Method
from acdc_jax.evolution.mutate import GaussianNoise, SVDNoise
from acdc_jax.evolution.mutate import mutate as mutate_tree
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.model import Model
from acdc_jax.models.tokenizer import vocabulary_hashes
from acdc_jax.params import Params

Tree = TypeVar("Tree")  # a Model, Params, or any pytree of arrays

_MAY_DIFFER = ("dtype", "max_positions")  # fields that a merge takes from the base


def merge(
    base: Tree,
    parents: Sequence[Tree],
    *,
    weights: Sequence[float] | Float[Array, " parents"] | None = None,
    method: Method = "linear",
    key: Key[Array, ""] | None = None,
    **options: Any,
) -> Tree:
    """Merge fine-tunes of one base into a child. Arithmetic is float32 and rounds once.

    Args:
        base: The model θ₀ that the parents were tuned from: a `Model`, `Params`, or any pytree.
        parents: Models of the same architecture, or pytrees of the same structure and shapes.
        weights: Coefficient of each parent; None: equal ones.
        method: A merge method; see `MergeOptions.method`.
        key: Typed PRNG key; needed by dare and della, which drop entries at random.
        **options: Other fields of `MergeOptions`, such as `density` or `normalise`.

    Returns:
        The child, in the base's dtypes and shardings. A `Model` has the base's configuration and
        the parents' text files: tokenizer and chat template are the first parent's, and the stop
        tokens of all parents end a response.

    Raises:
        ValueError: There is no parent; architectures, shapes or the ids of tokens differ; or an
            option is wrong.
        TypeError: An option does not exist.
    """
    if not parents:
        raise ValueError("merge needs at least one parent")
    merge_options = MergeOptions(method=method, **options)
    if merge_options.drops and key is None:
        raise ValueError(f"{method} drops entries at random: pass key=jax.random.key(0)")
    coefficients = np.ones(len(parents)) if weights is None else np.asarray(weights)
    if coefficients.shape != (len(parents),):
        raise ValueError(
            f"weights has shape {coefficients.shape}, but there are {len(parents)} parents"
        )
    if not np.isfinite(coefficients).all():
        raise ValueError(f"weights must be finite, got {coefficients.tolist()}")
    for number, parent in enumerate(parents):
        _check_alike(base, parent, f"parent {number}")
    trees = [_leaves(parent) for parent in parents]
    child = merge_trees(_leaves(base), trees, coefficients, merge_options, key=key)
    merged = _with_leaves(base, child)
    if isinstance(merged, Model):
        folders = (folder for parent in parents for folder in parent.folders)  # type: ignore[attr-defined]
        return merged.replace(folders=tuple(dict.fromkeys(folders)))  # type: ignore[no-any-return]
    return merged


def mutate(model: Tree, key: Key[Array, ""], noise: SVDNoise | GaussianNoise) -> Tree:
    """Return a model with noise on its projections; the model itself stays as it is.

    Args:
        model: A `Model`, `Params`, or any pytree of arrays.
        key: Typed PRNG key.
        noise: `SVDNoise` or `GaussianNoise`.

    Raises:
        ValueError: A weight is too small for a randomised decomposition.
    """
    return _with_leaves(model, mutate_tree(_leaves(model), key, noise))


def _leaves(tree: Any) -> Params:
    """Return the arrays of a model or pytree, by dotted path; those of NumPy as JAX's."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        tree.params if isinstance(tree, Model) else tree
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): jnp.asarray(leaf)
        for path, leaf in leaves
    }


def _with_leaves(tree: Tree, leaves: Params) -> Tree:
    """Return a model or pytree like `tree` with other arrays."""
    if isinstance(tree, Model):
        return tree.replace(params=leaves)  # type: ignore[no-any-return]
    replaced: Tree = jax.tree.unflatten(
        jax.tree.structure(tree), [leaves[p] for p in _leaves(tree)]
    )
    return replaced


def _check_alike(base: Any, parent: Any, name: str) -> None:
    """Raise ValueError if a parent does not have the base's architecture and shapes."""
    if isinstance(base, Model) != isinstance(parent, Model):
        raise TypeError(
            f"{name} is a {type(parent).__name__}, but the base a {type(base).__name__}"
        )
    if isinstance(base, Model):
        for field in fields(ModelConfig):
            ours, theirs = (getattr(m.config, field.name) for m in (base, parent))
            if ours != theirs and field.name not in _MAY_DIFFER:
                raise ValueError(
                    f"{name} has {field.name} {theirs!r}, but the base has {ours!r}; merge "
                    "fine-tunes of one base"
                )
        _check_tokens(base, parent, name)
    expected, leaves = _leaves(base), _leaves(parent)
    for path in sorted(expected.keys() ^ leaves.keys()):
        where = name if path in expected else "the base"
        raise ValueError(f"weight {path} is missing from {where}")
    for path, leaf in leaves.items():
        if leaf.shape != expected[path].shape:
            raise ValueError(
                f"weight {path} of {name} has shape {leaf.shape}, but the base has "
                f"{expected[path].shape}"
            )


def _check_tokens(base: Model, parent: Model, name: str) -> None:
    """Raise ValueError if a token of the base has another id, and so another row, in a parent."""
    files = [vocabulary_hashes(model.folders[0]) for model in (base, parent)]
    if files[0] == files[1] or not all(map(any, files)):
        return
    ours, theirs = (model.tokenizer.get_vocab() for model in (base, parent))
    for token in sorted(ours.keys() & theirs.keys()):
        if ours[token] != theirs[token]:
            raise ValueError(
                f"{name} has token {token!r} with id {theirs[token]}, but the base has it with id "
                f"{ours[token]}; a run (acdc run) puts their rows in one order"
            )
