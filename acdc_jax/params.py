"""The one type that stands for a model's weights."""

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")
_LAYER = re.compile(r"layers\.\d+\.")

Params = dict[str, jax.Array]
"""A model's weights: a flat pytree, dotted path → array, one leaf per layer per weight.

`layers.3.mlp.up.weight` is such a path. A stacked [layers, …] leaf would be copied by every
decoding step on a GPU.
"""


def named_leaves(tree: Tree) -> tuple[Params, Callable[[Iterable[jax.Array]], Tree]]:
    """Return a pytree's leaves by dotted path, and a function that builds the tree from leaves.

    `Params` are their own dotted paths; {"layers": [{"up": x}]} has the path "layers.0.up".
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    by_path = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves
    }
    return by_path, partial(jax.tree_util.tree_unflatten, structure)


def blocks(paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Return paths in blocks: those of each layer, and each of the others alone.

    All layers have the same shapes, so that what works on a block is compiled once for all of them.

    Args:
        paths: Dotted paths. If they are sorted, so are the blocks' paths, one after another.
    """
    of_block: dict[str, list[str]] = {}
    for path in paths:
        layer = _LAYER.match(path)
        of_block.setdefault(layer.group() if layer else path, []).append(path)
    return [tuple(block) for block in of_block.values()]


def path_hashes(paths: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return a number for each path, [paths] uint32: what it folds into PRNG keys and hashes.

    Unlike its position, it does not depend on which other paths there are.
    """
    return np.array([zlib.crc32(path.encode()) for path in paths], np.uint32)


def fetch(results: Sequence[jax.Array]) -> np.ndarray[Any, Any]:
    """Return arrays of one shape and dtype, on the same devices, stacked on the host.

    They come in one transfer: with a transfer each, the threads of several device groups would
    wait for each other.
    """
    stacked: np.ndarray[Any, Any] = jax.device_get(stack(list(results)))
    return stacked


stack = jax.jit(jnp.stack)
