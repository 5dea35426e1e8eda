"""Crossover of n parents: linear, slerp, TIES, DARE, DELLA, model stock.

`MergeOptions` holds the method and its settings, `merge` merges, and `module_groups` says which
weights share a coefficient.
"""

from acdc_jax.evolution.merge.granularity import Granularity, module_groups
from acdc_jax.evolution.merge.options import METHODS, MergeOptions
from acdc_jax.evolution.merge.tree import merge

__all__ = ["METHODS", "Granularity", "MergeOptions", "merge", "module_groups"]
