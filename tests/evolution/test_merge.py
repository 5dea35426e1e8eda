"""Every crossover against float64 and mergekit, its sharding, its compilations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.evolution.merge import (
    METHODS,
    MergeOptions,
    average,
    module_groups,
    tree,
)
from acdc_jax.evolution.merge import (
    merge as merge_models,
)
from acdc_jax.evolution.merge.sparse import relative_ranks, trim

from .plain_merge import plain_merge

SHAPES = {
    "embed.weight": (12, 8),
    "layers.0.attention_norm.weight": (8,),
    "layers.0.attention.q.weight": (8, 8),
    "layers.0.attention.q.bias": (8,),
    "layers.0.mlp_norm.weight": (8,),
    "layers.0.mlp.gate.weight": (16, 8),
    "layers.10.attention.o.weight": (8, 8),
    "layers.2.mlp.down.weight": (8, 16),
    "norm.weight": (8,),
    "head.weight": (12, 8),
}
FEW = ("layers.0.mlp.gate.weight", "norm.weight")  # a matrix and a vector: few programs
KEY = jax.random.key(11)
EACH = [
    MergeOptions(),
    MergeOptions(normalise=False),
    MergeOptions("slerp"),
    MergeOptions("ties", density=0.4),
    MergeOptions("ties", normalise=False, density=1.0),
    MergeOptions("dare_linear", normalise=False, density=0.5),
    MergeOptions("dare_ties", density=0.5),
    MergeOptions("della_linear", density=0.5, epsilon=0.2),
    MergeOptions("della", normalise=False, density=0.5, epsilon=0.2),
    MergeOptions("model_stock"),
]
assert {merge.method for merge in EACH} == set(METHODS)
DRAWN = [merge for merge in EACH if merge.drops]
EXACT = [merge for merge in EACH if not merge.drops]


def drawn(seed, leading=(), paths=tuple(SHAPES)):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=leading + SHAPES[path]) for path in paths}


def random_weights(seed, dtype=jnp.float32, leading=(), paths=tuple(SHAPES)):
    return {path: jnp.asarray(leaf, dtype) for path, leaf in drawn(seed, leading, paths).items()}


def related_weights(n, dtype=jnp.float32, paths=tuple(SHAPES)):
    """A base and n parents whose task vectors have much in common, as finetuned models have."""
    base, common, *own = (drawn(seed, paths=paths) for seed in range(n + 2))
    parents = [
        {path: base[path] + 0.2 * common[path] + 0.3 * tau[path] for path in base} for tau in own
    ]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (base, parents))


def plain(merge, base, parents, w, groups):
    return {
        path: plain_merge(
            merge.method,
            base[path].astype(jnp.float32),
            [parent[path].astype(jnp.float32) for parent in parents],
            np.asarray(w)[:, groups[path]],
            normalise=merge.normalise,
            density=merge.density,
        )
        for path in base
    }


def test_groups_follow_the_layers():
    names, groups = module_groups(SHAPES, "module")
    assert names == (
        "embedding",
        "layer 0 attention",
        "layer 0 mlp",
        "layer 2 mlp",
        "layer 10 attention",
        "head",
    )
    assert groups["layers.0.attention_norm.weight"] == groups["layers.0.attention.q.bias"] == 1
    assert groups["layers.0.mlp_norm.weight"] == 2
    assert groups["norm.weight"] == groups["head.weight"] == 5
    names, groups = module_groups(SHAPES, "layer")
    assert names == ("embedding", "layer 0", "layer 2", "layer 10", "head")
    assert groups["layers.0.mlp.gate.weight"] == groups["layers.0.attention.q.weight"] == 1
    names, groups = module_groups(SHAPES, "global")
    assert names == ("all",)
    assert set(groups.values()) == {0}


def test_unknown_path_is_named():
    with pytest.raises(ValueError, match=r"layers\.0\.experts\.weight"):
        module_groups(["layers.0.experts.weight"], "module")


@pytest.mark.parametrize("granularity", ["global", "module"])
@pytest.mark.parametrize("merge", EXACT, ids=str)
def test_equals_float64(merge, granularity):
    base, parents = related_weights(3)
    names, groups = module_groups(SHAPES, granularity)
    w = np.random.default_rng(0).uniform(0.1, 1.3, (3, len(names))).astype(np.float32)
    merged = merge_models(base, parents, jnp.asarray(w), merge, key=KEY, groups=groups)
    expected = plain(merge, base, parents, w, groups)
    for path in SHAPES:
        np.testing.assert_allclose(merged[path], expected[path], rtol=1e-5, atol=5e-6)


CASES = {
    "linear": (MergeOptions(), (0.9, 0.6)),
    "linear sum": (MergeOptions(normalise=False), (0.9, 0.6)),
    "ties": (MergeOptions("ties", density=0.4), (0.9, 0.6)),
    "ties sum": (MergeOptions("ties", normalise=False, density=0.7), (0.9, 0.6)),
    "elected": (MergeOptions("ties"), (0.9, 0.6)),
    "slerp": (MergeOptions("slerp"), (0.6, 0.4)),
    "model_stock": (MergeOptions("model_stock"), (1.0, 1.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_mergekit(case):
    """What mergekit made of checkpoints that transformers wrote; see make_mergekit_fixture.py."""
    merge, w = CASES[case]
    with np.load(Path(__file__).parent / "fixtures" / "mergekit.npz") as arrays:
        base, a, b, expected = (
            {k.removeprefix(f"{name}."): arrays[k] for k in arrays if k.startswith(f"{name}.")}
            for name in ("base", "a", "b", case)
        )
    coefficients = jnp.array(w, jnp.float32)[:, None]
    merged = merge_models(base, [a, b], coefficients, merge, key=KEY, groups=dict.fromkeys(base, 0))
    for path in base:
        np.testing.assert_allclose(merged[path], expected[path], rtol=1e-5, atol=1e-6)
        assert np.abs(expected[path] - base[path]).max() > 0.01


@pytest.mark.parametrize("merge", EXACT, ids=str)
def test_bfloat16_rounds_once(merge):
    base, parents = related_weights(2, jnp.bfloat16, FEW)
    names, groups = module_groups(FEW, "module")
    w = np.random.default_rng(1).uniform(0.1, 1.3, (2, len(names))).astype(np.float32)
    merged = merge_models(base, parents, jnp.asarray(w), merge, key=KEY, groups=groups)
    expected = plain(merge, base, parents, w, groups)
    for path in FEW:
        assert merged[path].dtype == jnp.bfloat16
        # Half a unit in the last of 8 bits, and what float32 adds to it.
        np.testing.assert_allclose(
            merged[path].astype(jnp.float32), expected[path], rtol=2**-8 * 1.01, atol=5e-6
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("merge", [m for m in EACH if m.averages], ids=str)
def test_one_parent_comes_back_bit_for_bit(merge, dtype):
    base, parent, other = (random_weights(seed, dtype) for seed in range(3))
    names, groups = module_groups(SHAPES, "module")
    for row in (0, 1):
        w = jnp.zeros((2, len(names))).at[row].set(1)
        merged = merge_models(base, [parent, other], w, merge, key=KEY, groups=groups)
        for path in SHAPES:
            np.testing.assert_array_equal(merged[path], (parent, other)[row][path])


@pytest.mark.parametrize("merge", EACH, ids=str)
def test_without_coefficients_the_base_comes_back(merge):
    base, parents = related_weights(2, paths=FEW)
    _, groups = module_groups(FEW, "global")
    merged = merge_models(base, parents, jnp.zeros((2, 1)), merge, key=KEY, groups=groups)
    for path in FEW:
        np.testing.assert_array_equal(merged[path], base[path])


def test_coefficients_that_cancel_keep_the_base():
    base, parents = related_weights(2)
    _, groups = module_groups(SHAPES, "global")
    for merge in (MergeOptions(), MergeOptions("model_stock")):
        w = jnp.array([[0.5], [-0.5]])
        merged = merge_models(base, parents, w, merge, key=KEY, groups=groups)
        for path in SHAPES:
            np.testing.assert_array_equal(merged[path], base[path])


@pytest.mark.parametrize("merge", EACH, ids=str)
def test_a_parent_without_a_coefficient_has_no_influence(merge):
    base, parents = related_weights(3, paths=FEW)
    _, groups = module_groups(FEW, "global")
    w = jnp.array([[0.8], [0.5], [0.0]])
    stranger = random_weights(77, paths=FEW)
    merged = merge_models(base, [*parents[:2], stranger], w, merge, key=KEY, groups=groups)
    expected = merge_models(base, parents[:2], w[:2], merge, key=KEY, groups=groups)
    for path in FEW:
        np.testing.assert_allclose(merged[path], expected[path], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("merge", DRAWN, ids=str)
def test_drops_are_unbiased_and_elected_as_defined(merge):
    """Where nothing is elected the mean over keys is the linear merge; the rest by definition."""
    base, parents = related_weights(2)
    path = "layers.0.mlp.gate.weight"
    base, parents = {path: base[path]}, [{path: parent[path]} for parent in parents]
    groups, w = {path: 0}, jnp.array([[0.9], [0.6]])
    taus = np.stack([parent[path] - base[path] for parent in parents])
    alone = MergeOptions(merge.method, False, merge.density, merge.epsilon)
    keep = np.full(taus.shape, merge.density)
    if merge.ranks:
        ranks = np.argsort(np.argsort(np.abs(taus), axis=-1), axis=-1) / (taus.shape[-1] - 1)
        keep = merge.density - merge.epsilon + 2 * merge.epsilon * ranks

    # What each parent's task vector was multiplied by: 0 or one over its probability.
    def factors(key, p):
        one = merge_models(
            base, parents, jnp.zeros((2, 1)).at[p].set(1), alone, key=key, groups=groups
        )
        return np.asarray(one[path] - base[path]) / taus[p]

    found = np.stack([factors(KEY, 0), factors(KEY, 1)])
    kept = found > 0.5
    np.testing.assert_allclose(found[kept], (1 / keep)[kept], rtol=2e-3)
    np.testing.assert_allclose(found[~kept], 0, atol=1e-3)
    assert 0.3 < kept.mean() < 0.7
    assert (kept[0] != kept[1]).any()

    merged = merge_models(base, parents, w, merge, key=KEY, groups=groups)
    expected = plain_merge(
        merge.method,
        base[path],
        [parent[path] for parent in parents],
        w[:, 0],
        normalise=merge.normalise,
        factors=np.where(kept, 1 / keep, 0),
    )
    np.testing.assert_allclose(merged[path], expected, rtol=1e-4, atol=1e-4)

    n = 2_000
    keys = jax.random.split(jax.random.key(3), n)
    many = jax.vmap(lambda key: merge_models(base, parents, [1, 0], alone, key=key))(keys)
    kept = np.asarray(many[path] != base[path][None]).mean(axis=0)
    np.testing.assert_allclose(kept, keep[0], atol=5 * 0.5 / np.sqrt(n))


def test_trim_finds_the_order_statistic():
    rng = np.random.default_rng(0)
    for size, density in ((1, 0.1), (7, 0.5), (1000, 0.237), (999, 0.9), (64, 0.001)):
        change = (rng.normal(size=size) * 10.0 ** rng.integers(-30, 30, size)).astype(np.float32)
        kept = max(1, int(density * size))
        expected = np.where(np.abs(change) >= np.sort(np.abs(change))[-kept], change, 0)
        np.testing.assert_array_equal(trim(jnp.asarray(change), density), expected)
    ties = jnp.array([1.0, -1.0, 0.5, 1.0, 0.0])
    np.testing.assert_array_equal(trim(ties, 0.4), [1.0, -1.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(trim(jnp.zeros(5), 0.4), np.zeros(5))


def test_equal_entries_rank_equally():
    ranks = relative_ranks(jnp.array([[3.0, 1.0, 1.0, 2.0, 9.0], [5.0, 4.0, 3.0, 2.0, 1.0]]))
    np.testing.assert_allclose(ranks, [[0.75, 0, 0, 0.5, 1], [1, 0.75, 0.5, 0.25, 0]])


@pytest.mark.parametrize("merge", [MergeOptions(), MergeOptions("slerp")], ids=str)
def test_a_base_without_a_share_is_not_read(merge):
    base, parents = related_weights(2, paths=FEW)
    w = jax.random.uniform(jax.random.key(9), (2, 1), minval=0.1)
    groups = dict.fromkeys(FEW, 0)
    merged = merge_models(base, parents, w, merge, key=KEY, groups=groups)
    unknown = {path: jnp.full_like(leaf, jnp.nan) for path, leaf in base.items()}
    child = merge_models(unknown, parents, w, merge, key=KEY, groups=groups)
    for path in FEW:
        with_it = average.average(
            merge, [base[path]], [[parent[path]] for parent in parents], w, reads_base=True
        )
        np.testing.assert_array_equal(child[path], merged[path])
        np.testing.assert_allclose(child[path], with_it[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "merge", [MergeOptions(), MergeOptions("slerp"), MergeOptions(normalise=False)], ids=str
)
def test_coefficients_that_cancel_out_keep_the_base(merge):
    base, parents = related_weights(2, paths=FEW)
    for w in ([[0.0], [0.0]], [[0.25], [-0.25]]):
        assert average.needs_base(merge, np.array(w, np.float32))
    merged = merge_models(
        base, parents, jnp.zeros((2, 1)), merge, key=KEY, groups=dict.fromkeys(FEW, 0)
    )
    for path in FEW:
        np.testing.assert_array_equal(merged[path], base[path])


@pytest.mark.parametrize("merge", DRAWN[:1], ids=str)
def test_a_draw_depends_on_its_own_path_and_key_alone(merge):
    base, parents = related_weights(2, paths=FEW)
    path = FEW[0]
    only = {path: base[path]}, [{path: parent[path]} for parent in parents]
    groups, w = dict.fromkeys(FEW, 0), jnp.ones((2, 1))
    whole = merge_models(base, parents, w, merge, key=KEY, groups=groups)
    alone = merge_models(*only, w, merge, key=KEY, groups={path: 0})
    other = merge_models(*only, w, merge, key=jax.random.key(12), groups={path: 0})
    np.testing.assert_array_equal(whole[path], alone[path])
    assert not np.array_equal(other[path], alone[path])


def test_missing_weight_is_named():
    base, parent = random_weights(0), random_weights(1)
    _, groups = module_groups(SHAPES, "global")
    del parent["norm.weight"]
    with pytest.raises(ValueError, match=r"'norm\.weight' is missing"):
        merge_models(base, [parent], jnp.ones((1, 1)), MergeOptions(), key=KEY, groups=groups)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "average"}, "method must be one of linear, .* got .average"),
        ({"density": 0.0}, r"density must be in \(0, 1\]"),
        ({"density": 0.5}, "density must be 1: method=.linear. keeps every entry"),
        ({"method": "dare_ties"}, "density must be below 1 for method=.dare_ties"),
        ({"method": "ties", "density": 0.5, "epsilon": 0.1}, "epsilon must be 0 for method=.ties"),
        ({"method": "della", "density": 0.5}, "density=0.5 ± epsilon"),
        ({"method": "della", "density": 0.5, "epsilon": 0.5}, "density=0.5 ± epsilon"),
        ({"method": "slerp", "normalise": False}, "normalise must be true"),
        ({"method": "model_stock", "normalise": False}, "normalise must be true"),
        ({"method": "della", "density": 0.5, "epsilon": float("nan")}, "finite"),
    ],
)
def test_impossible_merges_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        MergeOptions(**values)


@pytest.mark.parametrize("merge", EACH, ids=str)
def test_sharding_in_is_sharding_out(merge):
    mesh = Mesh(np.array(jax.devices()), ("model",), axis_types=(AxisType.Auto,))

    def put(tree):
        # Split across its rows (as gate and up are), and whole.
        def place(leaf):
            split = ("model",) if leaf.ndim > 1 else ()
            return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*split)))

        return {path: place(leaf) for path, leaf in tree.items()}

    base, parents = related_weights(2, paths=FEW)
    names, groups = module_groups(FEW, "module")
    w = np.random.default_rng(9).uniform(0.1, 1, (2, len(names)))
    whole = merge_models(base, parents, w, merge, key=KEY, groups=groups)
    child = merge_models(put(base), [*map(put, parents)], w, merge, key=KEY, groups=groups)
    for path, placed in put(base).items():
        assert child[path].sharding.is_equivalent_to(placed.sharding, placed.ndim), path
        np.testing.assert_allclose(child[path], whole[path], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("merge", "expected"), [(MergeOptions("slerp"), 5), (EACH[3], 5)], ids=str)
def test_children_share_compilations(merge, expected):
    """Averages compile once per kind of layer, the others once per shape."""
    base = random_weights(0)
    before = tree._merge_leaves_jit._cache_size()
    for seed in (1, 2, 3):
        names, groups = module_groups(SHAPES, "layer")
        parents = [random_weights(seed), random_weights(seed + 9)]
        w = np.full((2, len(names)), seed / 3, np.float32)
        merge_models(base, parents, w, merge, key=KEY, groups=groups)
    assert tree._merge_leaves_jit._cache_size() == before + expected


def test_any_tree_merges_with_one_coefficient_per_parent():
    base = {"layers": [{"up": jnp.ones(3)}, {"up": jnp.zeros(3)}]}
    parents = [
        {"layers": [{"up": jnp.full(3, 1 + shift)}, {"up": jnp.full(3, shift)}]}
        for shift in (1.0, 2.0)
    ]
    child = merge_models(base, parents, [0.5, 0.5], MergeOptions(normalise=False))
    np.testing.assert_array_equal(child["layers"][0]["up"], np.full(3, 2.5))
    np.testing.assert_array_equal(child["layers"][1]["up"], np.full(3, 1.5))


def test_wrong_arguments_are_named():
    base, parents = related_weights(2, paths=FEW)
    with pytest.raises(ValueError, match="3 coefficients do not fit 2 parents"):
        merge_models(base, parents, [1, 1, 1])
    with pytest.raises(ValueError, match="need a key"):
        merge_models(base, parents, [1, 1], MergeOptions("dare_ties", density=0.5))
