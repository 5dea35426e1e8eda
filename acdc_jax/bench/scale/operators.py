"""Breed children on several devices: distributed over them, or each one sharded over all."""

import time

import jax
import numpy as np

from acdc_jax.bench.weights import random_weights
from acdc_jax.config import Config
from acdc_jax.evolution.operators import propose_children
from acdc_jax.inference.device_groups import DeviceGroup, DeviceGroups
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.params import Params
from acdc_jax.runtime.breed import breed_child, member_id
from acdc_jax.runtime.setup import make_operators
from acdc_jax.sharding import make_mesh

_PARENTS = (member_id(0, 0), member_id(0, 1))


def breeding_seconds(
    config: Config, model: ModelConfig, spec: str, devices: int, children: int
) -> float:
    """Time the breeding of children whose parents are on the devices, without compilation.

    Args:
        config: The run's options.
        model: Shape of the members.
        spec: The mesh.
        devices: Number of devices of the mesh; the first ones are used.
        children: Number of children of all groups together.

    Returns:
        Wall seconds of all children.
    """
    groups = DeviceGroups.of_mesh(make_mesh(spec, jax.devices()[:devices]))
    bases, *parents = (_random_copies(groups, model, seed) for seed in range(3))
    operators = make_operators(config, model, len(_PARENTS))

    def breed(names: list[str]) -> float:
        recipes = propose_children(
            operators, _PARENTS, np.zeros(2), names, 1, jax.random.key(1)
        ).recipes

        def breed_share(group: DeviceGroup) -> None:
            for recipe in groups.share(group, recipes):
                breed_child(
                    recipe,
                    bases[group.index],
                    [copies[group.index] for copies in parents],
                    operators.group_of,
                )

        start = time.perf_counter()
        groups.run(breed_share)
        return time.perf_counter() - start

    breed([member_id(1, c) for c in range(groups.count)])  # compiles
    return breed([member_id(1, c) for c in range(children)])


def _random_copies(groups: DeviceGroups, model: ModelConfig, seed: int) -> list[Params]:
    """Return a copy of one random member on each group."""
    shardings = param_shardings(groups.local[0].mesh, model, population=False)
    copies = groups.copies(jax.device_put(random_weights(model, seed), shardings), model)
    jax.block_until_ready(copies)
    return copies
