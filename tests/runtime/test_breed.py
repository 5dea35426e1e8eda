"""Children bred together, alone, and again from their recipes: the same bits on any devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import GaussianNoise, SVDNoise
from acdc_jax.evolution.recipe import Recipe, key_words
from acdc_jax.runtime.breed import breed_child, breed_children, breeds_together

SHAPES = {
    "embed.weight": (24, 16),
    "layers.0.attention.q.weight": (16, 16),
    "layers.0.attention.q.bias": (16,),
    "layers.0.mlp.down.weight": (16, 40),
    "norm.weight": (16,),
}
MERGE_GROUPS = {path: int("mlp" in path) for path in SHAPES}
AVERAGES = [
    MergeOptions(),
    MergeOptions(normalise=False),
    MergeOptions("slerp"),
    MergeOptions("model_stock"),
]


def random_model(seed, dtype="bfloat16"):
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=shape), dtype) for path, shape in SHAPES.items()}


MODELS = [random_model(seed) for seed in range(5)]  # the base, and the possible parents


def a_recipe(child, merge, mutation=None, parents=3):
    rng = np.random.default_rng(child)
    return Recipe(
        id=f"g001-m{child:02d}",
        operator="merge",
        parents=tuple(str(1 + (child + p) % 4) for p in range(parents)),
        coefficients=tuple(
            map(tuple, rng.uniform(0.1, 1.3, (parents, 2)).astype(np.float32).tolist())
        ),
        groups=("rest", "mlp"),
        merge=merge,
        mutation=mutation,
        key=key_words(jax.random.key(child)),
        generation=1,
    )


def place(model, mesh):
    def sharding(path):
        spec = PartitionSpec("model", None) if "q.weight" in path else PartitionSpec()
        return NamedSharding(mesh, spec)

    return {path: jax.device_put(leaf, sharding(path)) for path, leaf in model.items()}


def breed_on(recipes, n_groups, size):
    """Breed children on groups of `size` devices; return them by id, and check where they lie."""
    devices = np.array(jax.devices()[: n_groups * size]).reshape(n_groups, size)
    meshes = [Mesh(row, ("model",), axis_types=(AxisType.Auto,)) for row in devices]
    models = [[place(model, mesh) for model in MODELS] for mesh in meshes]
    shares = [recipes[g::n_groups] for g in range(n_groups)]
    parents = [
        [[models[g][int(name)] for name in recipe.parents] for recipe in share]
        for g, share in enumerate(shares)
    ]
    families = breed_children(shares, [own[0] for own in models], parents, MERGE_GROUPS)
    for share, family, own in zip(shares, families, models, strict=True):
        assert [child.recipe.id for child in family] == [recipe.id for recipe in share]
        for child in family:
            for path, leaf in own[0].items():
                assert child.params[path].sharding == leaf.sharding
    return {child.recipe.id: child for family in families for child in family}


def breed_alone(recipe, models=MODELS):
    parents = [models[int(name)] for name in recipe.parents]
    return breed_child(recipe, models[0], parents, MERGE_GROUPS)


@pytest.mark.parametrize("merge", AVERAGES, ids=str)
def test_the_number_of_groups_changes_no_bit(merge):
    recipes = [a_recipe(child, merge) for child in range(5)]  # an odd one is left over
    alone = {recipe.id: breed_alone(recipe) for recipe in recipes}
    for n_groups in (1, 2, 4):
        for name, child in breed_on(recipes, n_groups, 1).items():
            assert child.recipe == alone[name].recipe
            assert child.recipe.content == content_hash(alone[name].params)
            for path in SHAPES:
                np.testing.assert_array_equal(child.params[path], alone[name].params[path])


def test_groups_of_several_devices():
    recipes = [a_recipe(child, MergeOptions()) for child in range(4)]
    children = breed_on(recipes, 2, 2)
    for recipe in recipes:
        assert children[recipe.id].recipe.content == breed_alone(recipe).recipe.content


def test_children_of_two_and_three_parents_and_one_that_keeps_the_base():
    recipes = [a_recipe(child, MergeOptions(), parents=2 + child % 2) for child in range(4)]
    opposite = ((0.5, 0.5), (-0.5, -0.5))
    recipes.append(
        dataclasses.replace(a_recipe(4, MergeOptions(), parents=2), coefficients=opposite)
    )
    children = breed_on(recipes, 2, 1)
    for recipe in recipes:
        assert children[recipe.id].recipe.content == breed_alone(recipe).recipe.content
    assert children[recipes[-1].id].recipe.content == content_hash(MODELS[0])


def test_what_is_bred_together():
    assert breeds_together([a_recipe(0, merge) for merge in AVERAGES])
    assert not breeds_together([a_recipe(0, MergeOptions("ties"))])
    assert not breeds_together([a_recipe(0, MergeOptions(), SVDNoise(rank=4))])


@pytest.mark.parametrize("mutation", [SVDNoise(rank=4), GaussianNoise(0.1)], ids=lambda m: m.kind)
def test_a_mutated_child_repeats_itself(mutation):
    recipe = a_recipe(0, MergeOptions("ties", density=0.5), mutation)
    first, second = breed_alone(recipe), breed_alone(recipe)
    assert first.recipe.content == second.recipe.content != ""
    assert first.recipe.content != breed_alone(a_recipe(1, recipe.merge, mutation)).recipe.content


def test_weights_that_are_not_finite_are_named():
    broken = {**MODELS[1], "norm.weight": MODELS[1]["norm.weight"].at[0].set(jnp.inf)}
    recipe = a_recipe(0, MergeOptions())
    child = breed_alone(recipe, [MODELS[0], broken, *MODELS[2:]])
    assert child.non_finite == ("norm.weight",)


def test_a_recipe_that_does_not_fit_is_an_error_of_its_child():
    recipe = a_recipe(7, MergeOptions(), SVDNoise(rank=400, decomposition="randomised"))
    with pytest.raises(AcdcError, match=r"child g001-m07: .*lower the rank"):
        breed_alone(recipe)
