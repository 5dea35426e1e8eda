"""The one type that stands for a model's weights."""

import jax

Params = dict[str, jax.Array]
"""A model's weights: a flat pytree, dotted path → array, one leaf per layer per weight.

`layers.3.mlp.up.weight` is such a path. A stacked [layers, …] leaf would be copied by every
decoding step on a GPU.
"""
