"""Breed children from their recipes: all of a generation together, or one by one.

A child's bits depend on its recipe alone, and not on the other children, the number of device
groups or processes, or the time: a member that was dropped is rebuilt bit for bit.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash, digests, read_digests
from acdc_jax.evolution.merge import MergeOptions, merge
from acdc_jax.evolution.merge.average import needs_base
from acdc_jax.evolution.mutate import mutate
from acdc_jax.evolution.population import merge_population
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.params import Params


class Child(NamedTuple):
    """A child that was bred.

    Attributes:
        params: Its weights.
        recipe: Its recipe, with the content hash of the weights and the kind of device.
        non_finite: Paths of the weights that hold an infinity or a NaN.
    """

    params: Params
    recipe: Recipe
    non_finite: tuple[str, ...]


def breed_child(
    recipe: Recipe, base: Params, parents: list[Params], merge_groups: Mapping[str, int]
) -> Child:
    """Merge, mutate, check and hash one child; it has the same bits as in `breed_children`.

    The host waits only once, for a few numbers, when the devices have done all the work.

    Args:
        recipe: What to breed.
        base: θ₀.
        parents: The recipe's parents, in its order. The list is emptied after the merge, because
            the mutation may need their memory.
        merge_groups: Weight path → index into the recipe's groups.

    Raises:
        AcdcError: The recipe does not fit the weights; names the child.
    """
    assert recipe.merge is not None
    merge_key, mutation_key = jax.random.split(recipe.prng_key())
    weights = np.asarray(recipe.coefficients, np.float32)
    try:
        child = merge(base, parents, weights, recipe.merge, key=merge_key, groups=merge_groups)
        parents.clear()
        if recipe.mutation:
            child = mutate(child, mutation_key, recipe.mutation, donate=True)
    except ValueError as error:
        raise AcdcError(f"child {recipe.id}: {error}") from error
    return _finish(recipe, child, jax.device_get(digests(child)))


def breeds_together(recipes: Sequence[Recipe]) -> bool:
    """Return whether `breed_children` can breed these; else `breed_child` breeds each of them."""
    return all(
        recipe.merge is not None and recipe.merge.averages and recipe.mutation is None
        for recipe in recipes
    )


def breed_children(
    recipes: Sequence[Sequence[Recipe]],
    bases: Sequence[Params],
    parents: Sequence[Sequence[Sequence[Params]]],
    merge_groups: Mapping[str, int],
) -> list[list[Child]]:
    """Merge, check and hash all children of a generation together.

    The work is sharded over the device groups of this process; each works through its own
    children. Children that differ in the number of parents have a program for each number.

    Args:
        recipes: Each device group's children, for which `breeds_together` is true.
        bases: θ₀ on the devices of each group.
        parents: Each group's children's parents, in the order of the recipes, on its devices.
        merge_groups: Weight path → index into the recipes' groups.

    Returns:
        Each group's children, on its devices.
    """
    mesh = _pop_mesh(bases)
    base = {path: _join([params[path] for params in bases], mesh) for path in bases[0]}
    slots = max(map(len, recipes))  # the same for every kind of child: few compilations
    child_by_id: dict[str, Child] = {}
    for kind in dict.fromkeys(_kind(recipe) for row in recipes for recipe in row):
        rows = [[c for c, recipe in enumerate(row) if _kind(recipe) == kind] for row in recipes]
        weights = np.zeros((len(rows), slots, kind.parents, kind.groups), np.float32)
        stacks = []
        for g, row in enumerate(rows):
            for slot, c in enumerate(row):
                weights[g, slot] = recipes[g][c].coefficients
            unused = [[bases[g]] * kind.parents] * (slots - len(row))
            stacks.append(_stack([*(parents[g][c] for c in row), *unused]))
        stacked = {path: _join([stack[path] for stack in stacks], mesh) for path in base}
        del stacks
        children, digests = merge_population(
            base,
            stacked,
            weights.reshape(-1, *weights.shape[2:]),
            merge_groups,
            kind.merge,
            mesh,
            reads_base=kind.reads_base,
        )
        del stacked
        split = [_split(children, g, base_of_group) for g, base_of_group in enumerate(bases)]
        checks = jax.device_get(digests).reshape(len(rows), slots, -1, 3)
        for g, row in enumerate(rows):
            for slot, c in enumerate(row):
                child_by_id[recipes[g][c].id] = _finish(
                    recipes[g][c], split[g][slot], checks[g, slot]
                )
    return [[child_by_id[recipe.id] for recipe in row] for row in recipes]


class _Kind(NamedTuple):
    """What is static in the program that breeds a child."""

    merge: MergeOptions
    reads_base: bool
    parents: int
    groups: int


def _kind(recipe: Recipe) -> _Kind:
    assert recipe.merge is not None
    reads_base = needs_base(recipe.merge, np.asarray(recipe.coefficients, np.float32))
    return _Kind(recipe.merge, reads_base, len(recipe.parents), len(recipe.groups))


def _finish(recipe: Recipe, params: Params, rows: npt.NDArray[np.uint32]) -> Child:
    content, non_finite = read_digests(params, rows)
    device = jax.devices()[0].device_kind
    return Child(params, dataclasses.replace(recipe, content=content, device=device), non_finite)


def _pop_mesh(params: Sequence[Params]) -> Mesh:
    """Return the mesh of all groups, given each group's params: axes "pop" and "model"."""
    meshes = [_sharding(next(iter(group.values()))).mesh for group in params]
    devices = np.stack([mesh.devices.reshape(-1) for mesh in meshes])
    return Mesh(devices, ("pop", "model"), axis_types=(AxisType.Auto,) * 2)


def _join(arrays: Sequence[jax.Array], mesh: Mesh) -> jax.Array:
    """Concatenate each group's array along the first axis, sharded over "pop"; copies nothing."""
    first, *rest = _spec(arrays[0])
    spec = PartitionSpec(("pop", first) if first else "pop", *rest)
    shape = (len(arrays) * arrays[0].shape[0], *arrays[0].shape[1:])
    shards = [shard.data for array in arrays for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), shards)


def _split(children: Params, group: int, base: Params) -> list[Params]:
    """Return one group's children, given leaves [groups × slots, …] over all groups."""
    parts: Params = {}
    places = []
    for path, leaf in base.items():
        mesh = _sharding(leaf).mesh
        here = set(mesh.devices.flat)
        shards = [s.data for s in children[path].addressable_shards if s.device in here]
        shape = (len(shards[0]), *leaf.shape)
        sharding = NamedSharding(mesh, PartitionSpec(None, *_spec(leaf)))
        parts[path] = jax.make_array_from_single_device_arrays(shape, sharding, shards)
        places.append((path, _sharding(leaf)))
    return _unstack_to(tuple(places), shape[0])(parts)


def _spec(array: jax.Array) -> tuple[str | None, ...]:
    """Return the mesh axis of each axis of an array."""
    spec = _sharding(array).spec
    return (*spec, *[None] * (array.ndim - len(spec)))


def _sharding(array: jax.Array) -> NamedSharding:
    return cast(NamedSharding, array.sharding)


@jax.jit
def _stack(parents: Sequence[Sequence[Params]]) -> Params:
    """Return leaves [children, parents, …]."""
    return {
        path: jnp.stack([jnp.stack([parent[path] for parent in row]) for row in parents])
        for path in parents[0][0]
    }


@lru_cache(maxsize=64)
def _unstack_to(
    places: tuple[tuple[str, NamedSharding], ...], size: int
) -> Callable[[Params], list[Params]]:
    """Return a function from leaves [size, …] to members with the given shardings."""

    def unstack(population: Params) -> list[Params]:
        return [{path: leaf[m] for path, leaf in population.items()} for m in range(size)]

    jitted: Callable[[Params], list[Params]] = jax.jit(unstack, out_shardings=[dict(places)] * size)
    return jitted


def seed_recipe(name: str, weights: Params) -> Recipe:
    """Return the recipe of a seed model."""
    return Recipe(name, "seed", (), (), (), None, None, (), 0, content_hash(weights))


def member_id(generation: int, number: int) -> str:
    """Return `g012-m03` for generation 12 and number 3; ids sort by age."""
    return f"g{generation:03d}-m{number:02d}"
