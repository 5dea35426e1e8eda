"""Crossover of n parents: linear, slerp, TIES, DARE, DELLA, model stock.

`MergeOptions` says how, `merge_child` and `merge_children` do it, and `module_groups` says which
weights share a coefficient.
"""

from acdc_jax.evolution.merge.granularity import Granularity, module_groups
from acdc_jax.evolution.merge.options import METHODS, MergeOptions
from acdc_jax.evolution.merge.tree import merge_child, merge_children

__all__ = [
    "METHODS",
    "Granularity",
    "MergeOptions",
    "merge_child",
    "merge_children",
    "module_groups",
]
