"""Novelty search against the rules in plain Python, and what must not matter to it."""

import json

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.evolution import dns
from acdc_jax.evolution.dns import SelectionOptions, fitness, rank, select

from .plain_archive import plain_select

EXACT = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
RULES = [
    {},
    {"weighted": False},
    {"denominator": "unsolved"},
    {"denominator": "unsolved", "weighted": False},
    {"distance": "hamming"},
    {"by": "fitness"},
    {"k": 1},
    {"k": 5, "dominated_score": 7.0},
]


@st.composite
def candidates(draw, missing=True):
    """Skills with many equal rows and equal fitnesses, few birth generations, shuffled ids."""
    n, tasks = draw(st.integers(1, 8)), draw(st.integers(1, 10))
    values = st.sampled_from([0, 1, 1, 0, 1, 0, 1, 0, -1] if missing else [0, 1])
    skills = draw(arrays(np.int8, (n, tasks), elements=values))
    for _ in range(draw(st.integers(0, 2))):
        skills[draw(st.integers(0, n - 1))] = skills[draw(st.integers(0, n - 1))]
    if not (skills >= 0).all(axis=0).any():
        skills[:, 0] = np.abs(skills[:, 0])
    births = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    ids = draw(st.permutations([f"m{i}" for i in range(n)]))
    return skills, births, list(ids)


@pytest.mark.parametrize("rule", RULES, ids=json.dumps)
@EXACT
@given(given=candidates())
def test_equals_plain_python(rule, given):
    skills, births, ids = given
    selected = select(skills, 5, births=births, ids=ids, options=SelectionOptions(**rule))
    kept, novelty = plain_select(skills.tolist(), births, ids, population=5, **rule)
    np.testing.assert_allclose(selected.novelty, [float(x) for x in novelty], rtol=1e-5)
    if rule.get("denominator") == "unsolved":  # Compared in float32, hence equal up to its ties.
        by_id = {ids[i]: float(novelty[i]) for i in range(len(ids))}
        scores = [by_id[ids[i]] for i in selected.indices]
        np.testing.assert_allclose(scores, [by_id[ids[i]] for i in kept], rtol=1e-5)
    else:
        assert selected.indices.tolist() == kept


@pytest.mark.parametrize("rule", RULES, ids=json.dumps)
@EXACT
@given(given=candidates(), seed=st.integers(0, 2**32 - 1))
def test_order_of_candidates_and_tasks_does_not_matter(rule, given, seed):
    skills, births, ids = given
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(ids)), rng.permutation(skills.shape[1])
    selection = SelectionOptions(**rule)
    selected = select(skills, 4, births=births, ids=ids, options=selection)
    shuffled = select(
        skills[rows][:, columns],
        4,
        births=[births[i] for i in rows],
        ids=[ids[i] for i in rows],
        options=selection,
    )
    assert [ids[i] for i in selected.indices] == [ids[rows[i]] for i in shuffled.indices]
    np.testing.assert_array_equal(selected.novelty[rows], shuffled.novelty)


def test_larger_than_a_block_and_a_digit(monkeypatch):
    """Several blocks of candidates and digits of the weights give what one of each gives."""
    rng = np.random.default_rng(0)
    skills = (rng.random((40, 90)) < rng.random((40, 1))).astype(np.int8)
    births, ids = rng.integers(0, 3, 40).tolist(), [f"m{i:02d}" for i in range(40)]
    kept, _ = plain_select(skills.tolist(), births, ids, population=40)
    assert select(skills, 40, births=births, ids=ids).indices.tolist() == kept
    monkeypatch.setattr(dns, "_BLOCK", 7)
    monkeypatch.setattr(dns, "_DIGIT", 2)
    uncached = SelectionOptions(dominated_score=998.0)  # other options: compiled with the above
    selected = select(skills, 39, births=births, ids=ids, options=uncached)
    assert selected.indices.tolist() == kept[:39]


@pytest.mark.parametrize("spec", [PartitionSpec("pop"), PartitionSpec(None, "pop")], ids=str)
def test_on_a_mesh(spec):
    """Skills that lie over the devices, by candidate or by task, are ranked as on one."""
    rng = np.random.default_rng(1)
    skills = (rng.random((64, 128)) < rng.random((64, 1))).astype(np.int8)
    births, ids, real = rng.integers(0, 3, 64), np.arange(64), np.ones(64, bool)
    rest = births.astype(np.int32), ids.astype(np.int32), real, SelectionOptions()
    mesh = Mesh(np.array(jax.devices()[:4]), ("pop",), axis_types=(AxisType.Auto,))
    order, novelty = rank(jax.device_put(skills, NamedSharding(mesh, spec)), *rest)
    expected, scores = rank(skills, *rest)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(novelty, scores)


def test_hand_computed():
    """Three tasks, failed by 1, 2 and 3 of 4 candidates."""
    skills = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 0]], np.int8)
    selected = select(skills, 2, births=[1, 0, 0, 0], ids=["a", "b", "c", "d"])
    # b is as fit as a and older, so b is the fittest; a differs from b in the second task only.
    np.testing.assert_allclose(selected.novelty, [100 * 3 / 7, 999, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(selected.fitness, [2 / 3, 2 / 3, 1 / 3, 0])
    assert selected.indices.tolist() == [1, 0]


@pytest.mark.parametrize("solved", [0, 1])
@pytest.mark.parametrize("rule", RULES, ids=json.dumps)
def test_all_pass_and_all_fail(solved, rule):
    skills = np.full((4, 6), solved, np.int8)
    selected = select(
        skills, 3, births=[2, 0, 0, 1], ids=list("abdc"), options=SelectionOptions(**rule)
    )
    assert selected.indices.tolist() == [1, 2, 3]  # Age, then id.
    assert np.isfinite(selected.novelty).all()
    assert sorted(selected.novelty)[:3] == [0, 0, 0]


def test_one_candidate_one_task():
    selected = select([[0]], 3, births=[0], ids=["a"])
    assert selected.indices.tolist() == [0]
    assert selected.novelty.tolist() == [999]


def test_fitness_is_over_the_tasks_for_which_every_row_has_a_score():
    skills = np.array([[1, 1, -1], [1, 0, 0]], np.int8)
    assert fitness(skills).tolist() == [1, 0.5]
    selected = select(skills, 2, births=[0, 0], ids=["a", "b"])
    assert selected.fitness.tolist() == [1, 0.5]
    assert selected.indices.tolist() == [0, 1]
    assert selected.novelty.tolist() == [999, 0]
    assert fitness([[1, -1, 1], [-1, 1, 0]]).tolist() == [1, 0]
    assert fitness([[1, -1], [-1, 0]]).tolist() == [0.5, 0]  # no common task: missing is unsolved
    assert fitness(np.zeros((2, 0))).tolist() == [0, 0]


@pytest.mark.parametrize("rule", RULES, ids=json.dumps)
@EXACT
@given(given=candidates(missing=False), data=st.data())
def test_missing_scores_raise_nobody(rule, given, data):
    """Without some of its scores, a candidate is compared as if nobody had been asked these tasks.

    Hence a copy of a member, born later, never passes it, whatever scores the copy lacks.
    """
    skills, births, ids = given
    tasks = skills.shape[1]
    original = data.draw(st.integers(0, len(ids) - 1))
    lost = data.draw(st.sets(st.integers(0, tasks - 1), max_size=tasks - 1))
    skills = np.vstack([skills, skills[original]])
    skills[-1, sorted(lost)] = -1
    births, ids, options = [*births, 9], [*ids, "copy"], SelectionOptions(**rule)
    selected = select(skills, len(ids), births=births, ids=ids, options=options)
    asked = np.delete(skills, sorted(lost), axis=1)
    expected = select(asked, len(ids), births=births, ids=ids, options=options)
    assert selected.indices.tolist() == expected.indices.tolist()
    np.testing.assert_array_equal(selected.novelty, expected.novelty)
    np.testing.assert_array_equal(selected.fitness, expected.fitness)
    order = [ids[i] for i in selected.indices]
    assert order.index(ids[original]) < order.index("copy")
    assert selected.fitness[-1] == selected.fitness[original]


@pytest.mark.parametrize(
    ("skills", "births", "ids", "message"),
    [
        (np.zeros((0, 3)), [], [], "no candidates"),
        (np.zeros((2, 0)), [0, 0], ["a", "b"], "no task"),
        ([[1, -1], [-1, 0]], [0, 0], ["a", "b"], "no task"),
        ([[1], [0]], [0, 0], ["a", "a"], "'a' appears twice"),
        ([[1], [0]], [0], ["a", "b"], "do not align"),
        (np.broadcast_to(np.int8(0), (20_000, 50_000)), [0] * 20_000, None, "too many"),
    ],
)
def test_impossible_updates_are_refused(skills, births, ids, message):
    with pytest.raises(ValueError, match=message):
        select(skills, 2, births=births, ids=ids)


@pytest.mark.parametrize(
    "values",
    [
        {"k": 0},
        {"dominated_score": float("nan")},
        {"by": "luck"},
        {"denominator": "some"},
        {"distance": "hamming", "denominator": "unsolved"},
    ],
)
def test_impossible_selections_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        SelectionOptions(**values)


def test_nearby_sizes_share_a_compilation():
    rng = np.random.default_rng(0)
    selection = SelectionOptions(k=2)
    before = rank._cache_size()
    for n, tasks in ((10, 250), (16, 256), (12, 225)):
        skills = rng.integers(0, 2, (n, tasks))
        select(skills, 2, options=selection)
    assert rank._cache_size() == before + 1
