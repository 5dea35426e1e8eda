"""Scores are missing in a generation: nobody gains by it, and no task is asked for forever."""

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acdc_jax.coevolve import select
from acdc_jax.evaluation.responses import Evaluation
from acdc_jax.evolution.dns import SelectionOptions
from acdc_jax.evolution.evosax_strategy import StrategyOptions
from acdc_jax.evolution.skills import MISSING, SkillMatrix
from acdc_jax.runtime import generation as generation_module
from acdc_jax.runtime.generation import Generation, Offspring
from acdc_jax.runtime.state import State
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.task import Draft, Task

_JUDGED, _COMPUTED = "eval_with_llm_judge()", "return 1.0"
_ARCHIVE, _CHILDREN = ("a0", "a1", "a2"), ("c0", "c1")


def _task(number: int, source: str) -> Task:
    draft = Draft("n", "d", "c", 1, "e", source, "novel")
    return Task(f"t{number:05d}", draft, 0, {"1": 0}, {"1": "go"})


_TASKS = [_task(i, _JUDGED if i < 6 else _COMPUTED) for i in range(10)]
_IDS = tuple(task.id for task in _TASKS)


def _matrix(members: Sequence[str], values: np.ndarray) -> SkillMatrix:
    return SkillMatrix(tuple(members), _IDS, values.astype(np.int8))


def _true_skills(seed: int = 0) -> SkillMatrix:
    values = np.random.default_rng(seed).integers(0, 2, (5, 10))
    return _matrix((*_ARCHIVE, *_CHILDREN), values)


def _state(skills: SkillMatrix, members: Sequence[str] = _ARCHIVE) -> State:
    rows = [skills.members.index(member) for member in members]
    recipes: Any = {name: SimpleNamespace(generation=int(name > "b")) for name in skills.members}
    library = Library({task.id: task for task in _TASKS})
    known = _matrix(members, skills.values[rows])
    return State(1, tuple(members), recipes, known, Pool(_IDS, {}, 10), library)


def _offspring(skills: SkillMatrix) -> Offspring:
    rows = [skills.members.index(name) for name in _CHILDREN]
    recipes: Any = {name: SimpleNamespace(generation=1) for name in _CHILDREN}
    return Offspring(recipes, _matrix(_CHILDREN, skills.values[rows]))


Judge = Callable[[str, str], float]  # member, task → score, or NaN


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[[Judge], Generation]:
    """A generation whose members are scored by a function, which is told what is asked."""

    def make(judge: Judge, reward: str = "novelty") -> Generation:
        def evaluate_members(
            evaluator: Any, members: Sequence[str], params: Any, tasks: Sequence[Task], **_: Any
        ) -> Evaluation:
            scores = np.asarray([[[judge(m, t.id)] for t in tasks] for m in members], np.float64)
            ids = tuple(task.id for task in tasks)
            missing = "status 500" if np.isnan(scores).any() else ""
            counts = np.ones(len(tasks), np.int64)
            return Evaluation(tuple(members), ids, scores, counts, (), problem=missing)

        monkeypatch.setattr(generation_module, "evaluate_members", evaluate_members)
        config = SimpleNamespace(
            run=SimpleNamespace(population=3, seed=0),
            tasks=SimpleNamespace(skill_threshold=0.5),
            selection=SelectionOptions(),
            strategy=StrategyOptions(reward=reward),  # type: ignore[arg-type]
        )
        groups = SimpleNamespace(run=lambda work: None, local=())
        context: Any = SimpleNamespace(
            config=config,
            operators=None,
            store={*_ARCHIVE, *_CHILDREN},
            evaluator=SimpleNamespace(groups=groups, with_room_for=lambda tasks: None),
        )
        return Generation(context, 1)

    return make


def _truth(skills: SkillMatrix) -> Judge:
    def judge(member: str, task: str) -> float:
        return float(skills.values[skills.members.index(member), _IDS.index(task)])

    return judge


@pytest.mark.parametrize("seed", range(5))
def test_what_the_archive_lacks_is_asked_for_before_the_selection(
    start: Callable[[Judge], Generation], seed: int
) -> None:
    """The archive is then that of a judge that never failed, and only the gaps were asked."""
    skills, asked = _true_skills(seed), list[tuple[str, str]]()

    def judge(member: str, task: str) -> float:
        asked.append((member, task))
        return _truth(skills)(member, task)

    state = _state(skills)
    gaps = state.skills.values.copy()
    gaps[0, 2] = gaps[1, 7] = MISSING
    lacking = dataclasses.replace(state, skills=_matrix(_ARCHIVE, gaps))
    selected = select(start(judge), lacking, _offspring(skills))
    expected = select(start(judge), state, _offspring(skills))
    assert selected.archive == expected.archive
    np.testing.assert_array_equal(selected.skills.values, expected.skills.values)
    assert set(asked) == {(m, t) for m in ("a0", "a1") for t in ("t00002", "t00007")}


def test_a_generation_without_a_judge_leaves_the_archive_and_the_strategy_as_they_are(
    start: Callable[..., Generation], capsys: pytest.CaptureFixture[str]
) -> None:
    skills = _true_skills()
    skills.values[3:] = 1  # children that would win
    skills.values[3:, :6] = MISSING
    generation, state = start(_truth(skills)), _state(skills)
    offspring = _offspring(skills)
    selected = select(generation, state, offspring)
    assert set(selected.archive) == set(_ARCHIVE)
    assert generation.rewards(offspring) is None
    generation._print_missing(generation._missing())
    (line,) = capsys.readouterr().err.splitlines()
    assert "c1, c0 cannot enter the archive" in line


@pytest.mark.parametrize("reward", ["novelty", "fitness"])
def test_a_child_that_could_not_be_compared_has_the_median_reward(
    start: Callable[..., Generation], reward: str
) -> None:
    skills = _true_skills()
    skills.values[4, :6] = MISSING
    generation, offspring = start(_truth(skills), reward), _offspring(skills)
    offspring = dataclasses.replace(
        offspring, recipes={**offspring.recipes, "c2": offspring.recipes["c0"]}, gibberish=("c2",)
    )
    select(generation, _state(skills), offspring)
    known = generation.novelty if reward == "novelty" else generation.fitness
    assert generation.rewards(offspring) == [known["c0"], known["c0"], 0.0]


def test_a_missing_score_raises_no_reward(start: Callable[..., Generation]) -> None:
    """A child that lacks a hard score has the reward of its complete twin."""
    skills = _true_skills()
    skills.values[3:] = [1, 0, 0, 1, 0, 1, 1, 1, 1, 1]
    skills.values[4, 1] = MISSING
    generation, offspring = start(_truth(skills), "fitness"), _offspring(skills)
    select(generation, _state(skills), offspring)
    assert generation.rewards(offspring) == [7 / 9, 7 / 9]


def _discard(generation: Generation, state: State, children: Sequence[str] = _CHILDREN) -> State:
    """The rest of a generation: children answer, gaps are asked for, and tasks leave."""
    generation.evaluate(generation.stored(children), state.active_tasks)
    return generation.discard_unscored_tasks(generation.retry_missing_scores(state))


def test_a_poisoned_task_leaves_after_three_generations(
    start: Callable[..., Generation], capsys: pytest.CaptureFixture[str]
) -> None:
    skills = _true_skills()

    def judge(member: str, task: str) -> float:
        return np.nan if (member, task) == ("a1", "t00003") else _truth(skills)(member, task)

    state = _state(skills)
    state.skills.values[1, 3] = MISSING
    for count in (1, 2):
        state = _discard(start(judge), state)
        assert state.pool.unscored == {"t00003": count}
        assert state.pool.active == state.skills.tasks == _IDS
    generation = start(judge)
    state = _discard(generation, state)
    assert state.pool == Pool(tuple(i for i in _IDS if i != "t00003"), {}, 10)
    assert state.skills.tasks == state.pool.active
    assert MISSING not in state.skills.values
    generation._print_missing(generation._missing())
    assert "t00003 left the task pool" in capsys.readouterr().err


def test_an_outage_is_no_tasks_fault_and_ends_the_count_of_none(
    start: Callable[..., Generation],
) -> None:
    skills = _true_skills()
    state = _state(skills)
    state.skills.values[1, 3] = MISSING

    def gone(member: str, task: str) -> float:
        return np.nan if int(task[1:]) < 6 else _truth(skills)(member, task)

    def poisoned(member: str, task: str) -> float:
        return np.nan if (member, task) == ("a1", "t00003") else _truth(skills)(member, task)

    state = _discard(start(poisoned), state)
    for _ in range(5):
        state = _discard(start(gone), state)
        assert state.pool.unscored == {"t00003": 1}
    state = _discard(start(_truth(skills)), state)
    assert state.pool.unscored == {}
    assert state.pool.active == _IDS
