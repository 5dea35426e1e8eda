"""Recipes survive JSON and remake what they describe."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import GaussianNoise, SVDNoise, mutate
from acdc_jax.evolution.recipe import Recipe, key_words


@pytest.fixture
def recipe():
    w = np.float32([[0.1, 1 / 3], [1.3, 1e-9]])
    return Recipe(
        id="g012-m03",
        operator="merge",
        parents=("g000-s01", "g011-m07"),
        coefficients=tuple(tuple(float(x) for x in row) for row in w),
        groups=("embedding", "head"),
        merge=MergeOptions(normalise=False),
        mutation=SVDNoise(scale=0.1, rank=3),
        key=key_words(jax.random.key(2**40)),
        generation=12,
        content="8c3f",
        device="cpu",
    )


def test_json_keeps_every_bit(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    np.testing.assert_array_equal(
        np.float32(again.coefficients), np.float32([[0.1, 1 / 3], [1.3, 1e-9]])
    )


def test_a_recipe_repeats_its_mutation(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    weights = {"layers.0.mlp.up.weight": jnp.arange(12, dtype=jnp.float32).reshape(3, 4)}
    once = mutate(weights, jax.random.key(2**40), SVDNoise(scale=0.1, rank=3))
    twice = mutate(weights, again.prng_key(), again.mutation)
    np.testing.assert_array_equal(*[w["layers.0.mlp.up.weight"] for w in (once, twice)])


def test_recipes_of_older_runs_are_read(recipe):
    """They kept the fields of every kind of mutation."""
    old = {"kind": "gaussian", "scale": 0.1, "rank": 256, "relative": True, "embeddings": False}
    data = recipe.to_json() | {"mutation": {**old, "decomposition": "auto"}}
    assert Recipe.from_json(data).mutation == GaussianNoise(0.1, relative=True)
    data = recipe.to_json()
    assert data["mutation"] == {
        "kind": "svd",
        "scale": 0.1,
        "rank": 3,
        "relative": False,
        "embeddings": False,
        "decomposition": "auto",
    }


def test_misfits_are_refused(recipe):
    with pytest.raises(ValueError, match="do not fit"):
        replace(recipe, parents=("g000-s01",))
    data = recipe.to_json()
    with pytest.raises(ValueError, match="'luck' does not belong"):
        Recipe.from_json({**data, "luck": 1})
    del data["key"]
    with pytest.raises(ValueError, match="'key' does not belong"):
        Recipe.from_json(data)
