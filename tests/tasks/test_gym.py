"""Tasks from reasoning-gym: levels, questions, the split, and the scientist."""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (extra gym)")

from reasoning_gym.factory import CURRICULA, DATASETS

from acdc_jax.errors import ConfigError
from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.gym import levels, task_sets
from acdc_jax.tasks.gym.catalogue import CATEGORIES, FAMILIES, choose_families
from acdc_jax.tasks.gym.questions import NoQuestionsError
from acdc_jax.tasks.gym.split import split_families
from acdc_jax.tasks.gym.write import origin_of, write_draft
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.task import CheckedDraft, Draft, Task
from acdc_jax.tasks.validate import check_drafts


def _any(text: str) -> bool:
    return True


def _task_family(draft: Draft) -> Any:
    names: dict[str, Any] = {}
    exec(draft.source, names)  # of our own making
    return names["TaskFamily"]


@pytest.fixture(scope="module")
def drafts() -> dict[str, Draft]:
    """Every family at the lowest levels at which it has questions."""
    written = {}
    for name, family in FAMILIES.items():
        rng = np.random.default_rng(0)
        at: dict[str, int] | None = levels.first_levels(name)
        while at is not None and name not in written:
            try:
                written[name] = write_draft(family, at, "seed", None, 2, rng, _any)
            except NoQuestionsError:
                at = levels.harder(name, at, rng)
    return written


def test_every_family_has_questions(drafts: dict[str, Draft]) -> None:
    """At some level, with answers that nobody can guess."""
    assert drafts.keys() == FAMILIES.keys()


def test_our_score_agrees_with_the_package(drafts: dict[str, Draft]) -> None:
    """On right answers, on those of the other question, and on right ones with a word more."""
    for name, draft in drafts.items():
        assert draft.reference is not None
        dataset, config = DATASETS[name]
        task_family = _task_family(draft)
        settings = levels.configuration(name, draft.metadata["levels"])
        right, other = draft.reference["1"], draft.reference["2"]
        (seed, _) = draft.metadata["seeds"]
        item = dataset(config(seed=seed, size=1, **settings))
        entry = item[0]
        instance = task_family.get_tasks()["1"]
        assert task_family.get_instructions(instance) == entry["question"].strip()
        for answer in (right, other, f"{right} extra"):
            try:
                theirs = item.score_answer(answer, entry) == 1.0
            except ValueError:  # prime_factorization cannot read every answer
                theirs = False
            assert bool(task_family.score(instance, answer)) == theirs, (name, answer)


@pytest.mark.parametrize(
    ("submission", "right", "passes"),
    [
        ("  The CAT. ", "the cat", True),
        ("1,000", "1000.0", True),
        ("3/4", "0.75", True),
        ("cat the", "the cat", False),
        ("", "the cat", False),
        ("1e9999999999", "7", False),
        ("nan", "7", False),
        ("12 3", "123", False),
    ],
)
def test_scores(submission: str, right: str, passes: bool, drafts: dict[str, Draft]) -> None:
    """Case, spacing and notation of numbers do not count."""
    score = _task_family(drafts["chain_sum"]).score
    assert score({"question": "", "answer": right}, submission) == float(passes)


def test_levels() -> None:
    """One attribute moves by one; the ends are ends; the settings follow."""
    rng = np.random.default_rng(0)
    for name in FAMILIES:
        first = levels.first_levels(name)
        assert levels.easier(name, first, rng) is None
        assert levels.difficulty(name, first) == 1
        raised = levels.harder(name, first, rng)
        assert raised is not None
        assert sorted(raised[key] - first[key] for key in first)[-2:] in ([0, 1], [1])
        assert levels.easier(name, raised, rng) == first
        assert levels.configuration(name, raised) != levels.configuration(name, first)
        top = {key: len(a.levels) - 1 for key, a in CURRICULA[name]().attributes.items()}
        assert levels.harder(name, top, rng) is None
        assert levels.difficulty(name, top) == 5


_NAMES = st.lists(st.sampled_from([*CATEGORIES, *FAMILIES]), max_size=12)


@given(_NAMES, _NAMES, st.integers(0, 2**31), st.text())
def test_the_split_leaks_nothing(
    names: list[str], excluded: list[str], seed: int, question: str
) -> None:
    """For any choice of families, no family and no question is on both sides."""
    choice = (*names, *(f"-{name}" for name in excluded))
    try:
        families = choose_families(choice)
    except ValueError:
        reject()
    split = split_families(choice, seed)
    assert split == split_families(choice, seed)
    assert sorted(f.name for f in (*split.pool, *split.held_out)) == sorted(
        f.name for f in families
    )
    for category in {family.category for family in families}:
        pool = [family for family in split.pool if family.category == category]
        held_out = [family for family in split.held_out if family.category == category]
        assert len(pool) > len(held_out)
        assert bool(held_out) == (len(pool) + len(held_out) > 2)
    assert split.is_held_out(question) != split.is_for_pool(question)


def test_every_prng_seed_splits_in_its_own_way() -> None:
    """A quarter of the questions, and other families and questions each time."""
    splits = [split_families((), seed) for seed in range(4)]
    texts = [f"question {i}" for i in range(400)]
    held_out = [tuple(map(split.is_held_out, texts)) for split in splits]
    assert len({split.held_out for split in splits}) == len(set(held_out)) == 4
    assert all(0.15 < np.mean(part) < 0.35 for part in held_out)


def _questions(drafts: list[Draft]) -> set[str]:
    return {text for draft in drafts for text, _ in _literal(draft.source).values()}


def _literal(source: str) -> dict[str, list[str]]:
    names: dict[str, Any] = {}
    exec(source, names)
    return names["QUESTIONS"]  # type: ignore[no-any-return]


def test_registered_sets_share_no_question() -> None:
    """Also where a family has few questions: they are divided by their text."""
    few = TaskPoolOptions(
        gym_families=("count_primes", "coin_flip", "simple_geometry", "gcd", "lcm", "chain_sum")
    )
    pool = task_sets.seed_families(3, few)
    scientist = task_sets.scientist(None, 3, few)
    context: list[Task] = []
    for i in range(30):
        draft = scientist.propose("novel", None, context, jax.random.key(i))
        context.append(Task(f"t{i}", draft, 0, {}, {}))
    used = [*pool, *(task.draft for task in context)]
    ours = _questions(used)
    questions = _questions(task_sets.held_out_questions(3, few))
    other_families = task_sets.held_out_families(3, few)
    families = _questions(other_families)
    assert questions
    assert families
    assert not ours & questions
    assert not ours & families
    assert {draft.metadata["family"] for draft in other_families}.isdisjoint(
        draft.metadata["family"] for draft in used
    )
    assert {draft.metadata["family"] for draft in (*used, *other_families)} == set(few.gym_families)


def test_too_few_families_to_hold_one_out() -> None:
    with pytest.raises(ConfigError, match="--gym_families=gcd,lcm leaves no family to hold out"):
        task_sets.held_out_families(0, TaskPoolOptions(gym_families=("gcd", "lcm")))


_PRINT = """
import json, random, numpy as np
random.seed({seed}); np.random.seed({seed})
from acdc_jax.tasks.gym.catalogue import FAMILIES
from acdc_jax.tasks.gym.write import write_draft
from acdc_jax.tasks.gym.levels import first_levels
from acdc_jax.tasks.gym.questions import NoQuestionsError
sources = {{}}
for name in FAMILIES:
    try:
        rng = np.random.default_rng(1)
        sources[name] = write_draft(
            FAMILIES[name], first_levels(name), "seed", None, 2, rng, lambda text: True
        ).source
    except NoQuestionsError:
        pass
print(json.dumps(sources))
"""


def test_questions_do_not_depend_on_the_process() -> None:
    """Neither on Python's hash seed nor on the global random numbers."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PRINT.format(seed=seed)],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    ]
    first, second = map(json.loads, outputs)
    assert len(first) > 30
    assert first == second


def _propose(
    kind: Any, parent: Task | None, context: list[Task], seed: int = 0, names: tuple[str, ...] = ()
) -> Draft:
    scientist = task_sets.scientist(None, 0, TaskPoolOptions(gym_families=names))
    return scientist.propose(kind, parent, context, jax.random.key(seed))


def test_the_scientist_writes_what_is_asked() -> None:
    """Harder and easier change one level, related ones stay in the category, novel ones leave."""
    parent = Task("t1", _propose("novel", None, []), 0, {}, {})
    harder = _propose("harder", parent, [parent])
    (family, first), (same, raised) = map(_origin, (parent.draft, harder))
    assert same == family
    assert sum(raised.values()) == sum(first.values()) + 1
    assert harder.parent == "t1"
    child = Task("t2", harder, 0, {}, {})
    easier = _propose("easier", child, [child])
    assert sum(_origin(easier)[1].values()) == sum(raised.values()) - 1
    related = _propose("related", parent, [parent])
    assert _origin(related)[0].category == family.category
    assert _origin(related)[0] != family
    assert _propose("novel", None, [parent]).metadata["family"] != family.name


def _origin(draft: Draft) -> Any:
    origin = origin_of(json.loads(json.dumps(dict(draft.metadata))))
    assert origin is not None
    return origin


def test_the_supply_does_not_end() -> None:
    """Once all families are used, their levels are."""
    context: list[Task] = []
    for i in range(12):
        draft = _propose("novel", None, context, i, ("gcd", "lcm", "products"))
        context.append(Task(f"t{i}", draft, 0, {}, {}))
    assert len({task.draft.metadata["family"] for task in context[:2]}) == 2
    assert len({task.draft.name for task in context}) == 12


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("geometry",), {"simple_geometry"}),
        (("graphs", "-maze", "-largest_island"), {"family_relationships"}),
        (("gcd", "lcm"), {"gcd", "lcm"}),
        (
            ("numbers", " -count_primes", "-number_sorting", "-words"),
            {"base_conversion", "number_filtering", "number_sequence"},
        ),
    ],
)
def test_choose_families(names: tuple[str, ...], kept: set[str]) -> None:
    """By family or category, with exceptions."""
    assert {family.name for family in choose_families(names)} == kept


@pytest.mark.parametrize("names", [("chess",), ("geometry", "-geometry")])
def test_families_that_do_not_exist(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"'chess' is neither a cat|leaves no family"):
        choose_families(names)


def test_drafts_pass_the_gate(drafts: dict[str, Draft]) -> None:
    """As an untrusted draft: no guess passes, the reference does."""
    names = ("chain_sum", "spell_backward", "rotate_matrix", "prime_factorization", "zebra_puzzles")
    with Sandbox(2, Limits()) as sandbox:
        verdicts = check_drafts([drafts[name] for name in names], sandbox, 0.5)
    for name, verdict in zip(names, verdicts, strict=True):
        assert isinstance(verdict, CheckedDraft), (name, verdict)
