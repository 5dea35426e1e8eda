"""Children made on several devices: shared out over them, or each spread over all of them."""

import time

import jax
import numpy as np

from acdc_jax.bench.weights import random_weights
from acdc_jax.config import Config
from acdc_jax.inference.device_groups import DeviceGroup, DeviceGroups
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.runtime.breed import make_child, member_id, propose_children
from acdc_jax.runtime.setup import make_operators
from acdc_jax.runtime.timer import Timer
from acdc_jax.sharding import make_mesh, pop_groups

_PARENTS = (member_id(0, 0), member_id(0, 1))


def making_seconds(
    config: Config, model: ModelConfig, spec: str, devices: int, children: int
) -> dict[str, float]:
    """Times the making of children whose parents are there, after one that compiles.

    Args:
        config: flags.
        model: shape of the members.
        spec: of the mesh.
        devices: how many of the devices, the first ones.
        children: how many, all groups together.

    Returns:
        Wall seconds of all children as "all", and those of the parts, averaged over the groups.
    """
    mesh = make_mesh(spec, jax.devices()[:devices])
    here = param_shardings(pop_groups(mesh)[0], model, population=False)
    base = jax.device_put(random_weights(model, 0), here)
    groups = DeviceGroups.of_mesh(mesh)
    bases = groups.copies(base, model)
    del base
    parents = [jax.device_put(random_weights(model, seed), here) for seed in (1, 2)]
    beside = [
        [jax.device_put(p, {path: x.sharding for path, x in base.items()}) for p in parents]
        for base in bases
    ]
    del parents
    jax.block_until_ready(beside)
    operators = make_operators(config, model, len(_PARENTS))
    clocks = {group.index: Timer() for group in groups.local}

    def make(names: list[str]) -> float:
        recipes = propose_children(
            operators, _PARENTS, np.zeros(2), names, 1, jax.random.key(1)
        ).recipes

        def work(group: DeviceGroup) -> None:
            clocks[group.index] = Timer()
            for recipe in groups.share(group, recipes):
                make_child(
                    recipe,
                    bases[group.index],
                    list(beside[group.index]),
                    operators.group_of,
                    clocks[group.index].lap,
                )

        began = time.perf_counter()
        groups.run(work)
        return time.perf_counter() - began

    make([member_id(1, c) for c in range(groups.count)])
    wall = make([member_id(1, c) for c in range(children)])
    parts = {
        part: sum(clock.seconds(part) for clock in clocks.values()) / len(clocks)
        for part in ("merge", "mutate", "check")
    }
    return {"all": wall, **parts}
