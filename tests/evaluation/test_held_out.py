"""The table of a finished run: missing scores, small archives, tasks with few instances."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation import baselines, held_out
from acdc_jax.evaluation.baselines import Baselines, measure_baselines
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.held_out import (
    Collective,
    FinishedRun,
    MeasuredSets,
    mean_row,
    measured_tasks,
    set_tables,
    solve,
    table_members,
)
from acdc_jax.evaluation.responses import Evaluation
from acdc_jax.evaluation.task_force import spread_samples
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.inference.sampling import Sampling
from acdc_jax.params import Params
from acdc_jax.tasks.task import Draft, Task

_NOTHING: Any = None


def _evaluator() -> Evaluator:
    engine: Any = SimpleNamespace(max_new_tokens=8)
    return Evaluator(_NOTHING, engine, _NOTHING, 1, 0.5)


def _task(instances: int) -> Task:
    keys = dict.fromkeys(map(str, range(instances)), "")
    return Task("t", Draft("n", "d", "c", 1, "e", "", "novel"), 0, keys, keys)


def _no_weights(model: str, group: int) -> Params:
    return {}


@pytest.mark.parametrize(("failures", "tasks_lost"), [(1, 1), (2, 1), (2, 2)])
def test_a_missing_score_is_not_a_wrong_one(
    failures: int, tasks_lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models with a missing score are evaluated once more; then the task counts for nobody."""
    calls: list[list[str]] = []

    def evaluate_members(
        evaluator: Evaluator, members: Any, weights: Any, tasks: Any, **options: Any
    ) -> Evaluation:
        assert evaluator.instances_per_task == 3
        scores = np.ones((len(members), 2, 3))
        scores[:, 1, 2] = np.nan  # there is no such instance
        if len(calls) < failures:
            scores[-1, :tasks_lost, 1] = np.nan
        calls.append(list(members))
        return Evaluation(tuple(members), ("x", "y"), scores, np.array([3, 2]), ())

    monkeypatch.setattr(held_out, "evaluate_members", evaluate_members)
    tasks = [_task(3), _task(2)]
    if tasks_lost == 2:
        with pytest.raises(AcdcError, match="could not score the answers of m1"):
            solve(_evaluator(), ["m0", "m1"], _no_weights, tasks)
    else:
        solved = solve(_evaluator(), ["m0", "m1"], _no_weights, tasks)
        skills = SkillMatrix(("m0", "m1"), ("t",), np.array([[1], [0]], np.int8))
        run = FinishedRun(skills, [], ["m0", "m1"], {}, _no_weights)
        (table,) = set_tables(run, {None: tasks}, solved)["sets"]
        assert (table["tasks"], table["missing_tasks"]) == (3 - failures, failures - 1)
        (row,) = table["rows"]
        assert (row["n"], row["coverage"], row["coverage_majority"]) == (2, 1, 1)
    assert calls == [["m0", "m1"], ["m1"]]


def test_tasks_with_different_numbers_of_instances() -> None:
    solved = {
        "m0": np.array([[1, 0, 0], [1, 1, np.nan]]),
        "m1": np.array([[0, 1, 1], [0, 1, np.nan]]),
    }
    both = Collective("both", [(["m0", "m1"], "m0")], solved)
    entry = mean_row(both, np.arange(2))
    assert dataclasses.astuple(entry) == ("both", 2, 1.0, 1.0, 1.0, 3 / 5)
    one = Collective("one", [(["m1"], "m1")], solved)
    assert mean_row(one, np.arange(2)).coverage_majority == 0.5  # of two, one is no majority
    draws = Collective("one", [(["m0"], "m0"), (["m1"], "m1")], solved)
    assert mean_row(draws, np.array([0])).coverage == 0.5


def test_rows_of_a_small_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A force is listed once, and a random collective's best member is the fittest on the pool."""
    scores = {"m0": 0, "m1": 1, "m2": 0}  # on held-out tasks; all others 0
    passes: list[tuple[list[str], bool]] = []

    def evaluate_members(
        evaluator: Any, members: Any, weights: Any, tasks: Any, **options: Any
    ) -> Evaluation:
        passes.append((list(members), bool(options.get("keys"))))
        values = np.asarray([[[scores.get(member, 0)]] for member in members], np.float64)
        return Evaluation(tuple(members), ("x",), values, np.array([1]), ())

    for module in (held_out, baselines):
        monkeypatch.setattr(module, "evaluate_members", evaluate_members)
    skills = SkillMatrix(tuple(scores), ("t0", "t1"), np.array([[0, 0], [1, 1], [1, 0]], np.int8))
    run = FinishedRun(skills, ["m0"], list(scores), {0: skills}, _no_weights)
    sets = {None: [_task(1)]}
    solved = solve(_evaluator(), table_members(run), _no_weights, sets[None])
    results = set_tables(run, sets, solved)
    (table,) = results["sets"]
    assert [(entry["collective"], entry["n"]) for entry in table["rows"]] == [("evolved", 3)]
    assert table["rows"][0]["best_single"] == 1
    assert results["task_force"].keys() == {"3", "8"}
    assert table["coverage_by_generation"] == {"0": 1.0}

    options = Baselines([], [], Sampling(0.7), prng_seed=0)
    steps: list[None] = []
    passes.clear()
    solved, collectives = measure_baselines(
        _evaluator(), run, [_task(1)], options, lambda: steps.append(None)
    )
    (whole,) = set_tables(run, sets, solved, collectives)["sets"]
    assert whole["rows"][:1] == table["rows"]
    assert [(row["collective"], row["n"], row["best_single"]) for row in whole["rows"][1:]] == [
        ("seeds", 1, 0),
        ("all_seeds", 1, 0),
        ("samples_best_seed", 3, 0),
        ("samples_best_seed", 8, 0),
        ("resampled_experts", 3, 0),
        ("resampled_experts", 8, 0),
        ("uniform_merge", 1, 0),
        ("random_members", 3, 1),
    ]
    assert len(steps) == baselines.STEPS
    # The scales of the merge on the pool; then everybody once, and all samples.
    scales, (greedy, sampled), samples = passes
    assert [scales[1], sampled, samples[1]] == [False, False, True]
    assert sorted(greedy) == ["m0", "m1", "m2", scales[0][0]]


_SEEDS = ["s0", "s1", "s2"]


def test_seeds_as_baselines_answer_with_their_own_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`s2` solves everything by itself, and nothing with the base's configuration."""
    members, alone = _evaluator(), dataclasses.replace(_evaluator(), skill_threshold=0.25)
    asked: list[tuple[bool, str, str]] = []  # by itself, the model, the seed whose weights it has
    sampled: dict[str, Any] = {}

    def evaluate_members(
        evaluator: Evaluator, models: Any, params_of: Any, tasks: Any, **options: Any
    ) -> Evaluation:
        by_itself = evaluator.skill_threshold == alone.skill_threshold
        asked.extend((by_itself, model, params_of(model, 0)["id"]) for model in models)
        if options.get("keys"):
            sampled.update({model: options["keys"][model] for model in models})
        values = np.asarray([[[float(by_itself)]] for _ in models])
        return Evaluation(tuple(models), ("x",), values, np.array([1]), ())

    for module in (held_out, baselines):
        monkeypatch.setattr(module, "evaluate_members", evaluate_members)
    monkeypatch.setattr(baselines, "merge", lambda *_: {"id": "merge"})
    skills = SkillMatrix(
        ("s0", "s1", "s2", "m0"), ("t0", "t1"), np.array([[1, 0], [0, 0], [0, 0], [1, 0]], np.int8)
    )
    own_skills = SkillMatrix(("s2",), ("t0", "t1"), np.array([[1, 1]], np.int8))
    run = FinishedRun(skills, _SEEDS, ["m0", "s2"], {0: skills}, lambda model, _: {"id": model})
    options = Baselines([{}], [], Sampling(0.7), 0, {"s2": alone}, own_skills)
    rows = {
        (row.collective, row.n): row
        for collective in measure_baselines(members, run, [_task(1)], options)[1]
        for row in [mean_row(collective, np.array([0]))]
    }
    assert rows["all_seeds", 3].coverage == 1
    assert rows["seeds", 3].best_single == 1  # s2 is the best seed, by its own skills
    assert rows["samples_best_seed", 8].coverage == 1
    assert rows["resampled_experts", 3].cover_at_half == 0
    assert rows["resampled_experts", 8].coverage == 1
    assert rows["uniform_merge", 1].coverage == 0
    # In the archive, it is a member like any other.
    assert (False, "s2", "s2") in asked
    assert (True, "s2", "s2") in asked
    samples = [(by_itself, model, of) for by_itself, model, of in asked if "sample" in model]
    assert {(by_itself, of) for by_itself, _, of in samples} == {
        (False, "s0"),
        (False, "s1"),
        (True, "s2"),
    }
    assert all(model.startswith(of) for _, model, of in samples)
    # 8 of the best seed; 3, 3 and 2 of all, of which the 2 of the best are among the 8.
    assert len(samples) == len({model for _, model, _ in samples}) == 8 + 3 + 3
    keys = {tuple(jax.random.key_data(key).tolist()) for key in sampled.values()}
    assert len(keys) == len(samples)
    for i in range(8):  # as before there were other seeds' samples
        key = jax.random.fold_in(jax.random.key(0), i)
        assert jax.random.key_data(sampled[f"s2 sample {i}"]).tolist() == (
            jax.random.key_data(key).tolist()
        )


def test_all_rows_are_over_the_same_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first task is poisoned for one sample, the second for a member; nobody gains by it."""
    poisoned = {("s0 sample 1", 0), ("m1", 1)}

    def evaluate_members(
        evaluator: Any, members: Any, weights: Any, tasks: Any, **options: Any
    ) -> Evaluation:
        values = np.zeros((len(members), 4, 1))
        values[:, 0] = values[:, 2] = 1
        for m, member in enumerate(members):
            for task in range(4):
                if (member, task) in poisoned:
                    values[m, task] = np.nan
        return Evaluation(tuple(members), tuple("wxyz"), values, np.ones(4, np.int64), ())

    for module in (held_out, baselines):
        monkeypatch.setattr(module, "evaluate_members", evaluate_members)
    monkeypatch.setattr(baselines, "_best_on_pool", lambda *_: "1.0")
    skills = SkillMatrix(("s0", "m1"), ("t0", "t1"), np.array([[1, 0], [0, 1]], np.int8))
    run = FinishedRun(skills, ["s0"], ["s0", "m1"], {0: skills}, _no_weights)
    tasks = [_task(1)] * 4
    solved = solve(_evaluator(), table_members(run), _no_weights, tasks)
    (table,) = set_tables(run, {"exam": tasks}, solved)["sets"]
    assert (table["name"], table["missing_tasks"]) == ("exam", 1)
    solved, collectives = measure_baselines(
        _evaluator(), run, tasks, Baselines([], [], Sampling(0.7), 0)
    )
    (table,) = set_tables(run, {"exam": tasks}, solved, collectives)["sets"]
    assert (table["tasks"], table["missing_tasks"]) == (2, 2)
    assert {(row["coverage"], row["best_single"]) for row in table["rows"]} == {(0.5, 0.5)}


def test_each_set_has_its_own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members answer all sets in one pass, and a task that has no score counts in no set."""
    asked: list[int] = []

    def evaluate_members(
        evaluator: Any, members: Any, weights: Any, tasks: Any, **options: Any
    ) -> Evaluation:
        asked.append(len(tasks))
        values = np.ones((len(members), 5, 2))
        values[:, 0] = 0
        values[:, 1:3, 1] = values[:, 0, 1] = np.nan  # tasks with one instance
        values[0, 4] = np.nan
        return Evaluation(tuple(members), tuple("vwxyz"), values, np.array([1, 1, 1, 2, 2]), ())

    monkeypatch.setattr(held_out, "evaluate_members", evaluate_members)
    skills = SkillMatrix(("m0", "m1"), ("t0", "t1"), np.array([[1, 0], [0, 1]], np.int8))
    run = FinishedRun(skills, ["m0"], ["m0", "m1"], {0: skills}, _no_weights)
    sets: MeasuredSets = {"few": [_task(1)] * 2, "many": [_task(1), _task(2), _task(2)]}
    solved = solve(_evaluator(), table_members(run), _no_weights, measured_tasks(sets))
    assert asked == [5, 5]  # once, and once more for m0, of which scores are missing
    few, many = set_tables(run, sets, solved)["sets"]
    assert (few["name"], few["tasks"], few["missing_tasks"]) == ("few", 2, 0)
    assert (many["name"], many["tasks"], many["missing_tasks"]) == ("many", 2, 1)
    assert [few["rows"][0]["coverage"], many["rows"][0]["coverage"]] == [0.5, 1.0]
    assert [few["coverage_by_generation"], many["coverage_by_generation"]] == [{"0": 0.5}, {"0": 1}]


@pytest.mark.parametrize(
    ("seeds", "n", "expected"),
    [
        (3, 8, [3, 3, 2, 0]),  # the paper's
        (3, 3, [1, 1, 1, 0]),
        (2, 8, [4, 4, 0, 0]),
        (4, 8, [2, 2, 2, 2]),
        (1, 3, [3, 0, 0, 0]),
        (4, 3, [1, 1, 0, 1]),  # those that cover most together
    ],
)
def test_samples_are_spread_evenly(seeds: int, n: int, expected: list[int]) -> None:
    values = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], np.int8)
    names = tuple(f"s{i}" for i in range(seeds))
    skills = SkillMatrix(names, ("t0", "t1", "t2", "t3"), values[:seeds])
    samples = spread_samples(skills, n)
    assert [sum(seed == f"s{i}" for seed, _ in samples) for i in range(4)] == expected
    assert len(set(samples)) == n
    assert sorted(number for _, number in samples) == [number for _, number in samples]
