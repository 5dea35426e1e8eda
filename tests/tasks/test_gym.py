"""Tasks from reasoning-gym: levels, questions, the split, and the scientist."""

import dataclasses
import functools
import json
import os
import re
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

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.gym import levels, puzzles, task_sets
from acdc_jax.tasks.gym import scientist as gym_scientist
from acdc_jax.tasks.gym.catalogue import CATEGORIES, FAMILIES, choose_families
from acdc_jax.tasks.gym.ideas import Idea, Part, lowest, neighbours, recorded_idea
from acdc_jax.tasks.gym.puzzles import scoring_of
from acdc_jax.tasks.gym.questions import NoQuestionsError
from acdc_jax.tasks.gym.scorers.one_answer import one_answer
from acdc_jax.tasks.gym.split import split_families
from acdc_jax.tasks.gym.write import write_draft
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.task import CheckedDraft, Draft, Kind, Task
from acdc_jax.tasks.validate import check_drafts


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


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
        idea: Idea | None = lowest(family)
        while idea is not None and name not in written:
            try:
                written[name] = write_draft(idea, "seed", None, 2, rng, _any)
            except NoQuestionsError:
                idea = next(neighbours(idea, 1, rng), None)
    return written


def test_every_family_has_questions(drafts: dict[str, Draft]) -> None:
    """At some level, with answers that nobody can guess."""
    assert drafts.keys() == FAMILIES.keys()


def test_our_score_agrees_with_the_package(drafts: dict[str, Draft]) -> None:
    """On right answers; if there is one, also on the other question's and with a word more."""
    for name, draft in drafts.items():
        assert draft.reference is not None
        dataset, config = DATASETS[name]
        task_family = _task_family(draft)
        (part,) = draft.metadata["parts"]
        settings = levels.configuration(name, part["levels"])
        right, other = draft.reference["1"], draft.reference["2"]
        (seed, *others), _ = part["seeds"]
        if others:  # several at once
            continue
        item = dataset(config(seed=seed, size=1, **settings))
        entry = item[0]
        instance = task_family.get_tasks()["1"]
        assert task_family.get_instructions(instance) == entry["question"].strip()
        several = scoring_of(name).is_right is not one_answer
        for answer in (right, *([] if several else [other, f"{right} extra"])):
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
    assert score({"question": "", "facts": right}, submission) == float(passes)


def test_levels() -> None:
    """One attribute moves by one; the ends are ends; the settings follow."""
    rng = np.random.default_rng(0)
    for name, family in FAMILIES.items():
        ((_, first),) = lowest(family)
        assert not list(neighbours(lowest(family), -1, rng))
        assert levels.difficulty(name, first) == 1
        raised = list(neighbours(lowest(family), 1, rng))
        top = levels.highest_levels(name)
        attributes = CURRICULA[name]().attributes
        assert top.keys() == attributes.keys()
        assert all(level < len(attributes[key].levels) for key, level in top.items())
        assert len(raised) == sum(level > 0 for level in top.values())
        for idea in raised:
            ((_, at),) = idea
            assert sum(at[key] - first[key] for key in first) == 1
            assert list(neighbours(idea, -1, rng)) == [lowest(family)]
            assert levels.exist(name, at)
            assert levels.configuration(name, at) != levels.configuration(name, first)
        assert not list(neighbours((Part(family, top),), 1, rng))
        assert levels.difficulty(name, top) == 5
        assert not levels.exist(name, {key: level + 1 for key, level in top.items()})
        assert not levels.exist(name, {**top, "no such attribute": 0})


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
    """Return all texts that are asked, also those that are asked together with others."""
    texts = set()
    for draft in drafts:
        family = _task_family(draft)
        for instance in family.get_tasks().values():
            asked = family.get_instructions(instance)
            for text in re.split(r"(?:First|Second) question:\n", asked)[1:] or [asked]:
                texts |= {part.strip() for part in _SEVERAL.split(text)[1:] or [text]}
    return texts


_SEVERAL = re.compile(r"^Question \d:\n", re.MULTILINE)


def test_registered_sets_share_no_question() -> None:
    """Also where a family has few questions: they are divided by their text."""
    few = TaskPoolOptions(
        gym_families=("count_primes", "coin_flip", "course_schedule", "gcd", "lcm", "chain_sum")
    )
    pool = task_sets.seed_families(3, few)
    scientist = task_sets.scientist(None, 3, few)
    context: list[Task] = []
    for i in range(30):
        kind: Kind = "related" if i % 2 else "novel"
        parent = context[i // 2] if i else None
        draft = scientist.propose(kind, parent, context, jax.random.key(i))
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
    assert _families(other_families).isdisjoint(_families(used))
    assert _families([*used, *other_families]) == set(few.gym_families)
    assert any(len(_idea(draft)) > 1 for draft in used)


def _families(drafts: list[Draft]) -> set[str]:
    return {part.family.name for draft in drafts for part in _idea(draft)}


def test_too_few_families_to_hold_one_out() -> None:
    with pytest.raises(ConfigError, match="--gym_families=gcd,lcm leaves no family to hold out"):
        task_sets.held_out_families(0, TaskPoolOptions(gym_families=("gcd", "lcm")))


_PRINT = """
import json, random, numpy as np
random.seed({seed}); np.random.seed({seed})
from acdc_jax.tasks.gym.catalogue import FAMILIES
from acdc_jax.tasks.gym.write import write_draft
from acdc_jax.tasks.gym.ideas import lowest
from acdc_jax.tasks.gym.ideas import Idea, lowest, neighbours, recorded_idea
from acdc_jax.tasks.gym.puzzles import scoring_of
from acdc_jax.tasks.gym.questions import NoQuestionsError
from acdc_jax.tasks.gym.scorers.one_answer import one_answer
sources = {{}}
for name in FAMILIES:
    try:
        rng = np.random.default_rng(1)
        sources[name] = write_draft(
            lowest(FAMILIES[name]), "seed", None, 2, rng, lambda text: True
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
    ((family, first),), ((same, raised),) = map(_idea, (parent.draft, harder))
    assert same == family
    assert sum(raised.values()) == sum(first.values()) + 1
    assert harder.parent == "t1"
    child = Task("t2", harder, 0, {}, {})
    easier = _propose("easier", child, [child])
    assert sum(_idea(easier)[0].levels.values()) == sum(raised.values()) - 1
    for seed in range(3):
        ((sibling, _),) = _idea(_propose("related", parent, [parent], seed))
        assert sibling.category == family.category
        assert sibling != family
        ((other, _),) = _idea(_propose("novel", parent, [parent], seed))
        assert other != family
    others = {_idea(_propose("novel", parent, [parent], seed))[0].family for seed in range(5)}
    assert {other.category for other in others} != {family.category}


def test_related_once_all_families_are_used() -> None:
    """A sibling at other levels, or the parent's question together with a sibling's."""
    few = ("gcd", "lcm", "base_conversion")
    context = [
        Task(f"t{i}", write_draft(lowest(FAMILIES[name]), "seed", None, 2, rng, _any), 0, {}, {})
        for i, (name, rng) in enumerate(zip(few, map(np.random.default_rng, range(3)), strict=True))
    ]
    drafts = [_propose("related", context[0], context, seed, few) for seed in range(8)]
    together = [draft for draft in drafts if len(_idea(draft)) == 2]
    for draft in together:
        assert [part.family.name for part in _idea(draft)] == ["gcd", "lcm"]
    apart = [_idea(draft)[0] for draft in drafts if len(_idea(draft)) == 1]
    assert together
    assert apart
    assert all(part.family.name in ("gcd", "lcm") and any(part.levels.values()) for part in apart)

    # Alone in its category, it is asked together with a family of another.
    (first, second) = _idea(_propose("related", context[2], context, 0, few))
    assert (first.family.name, second.family.category) == ("base_conversion", "arithmetic")

    both = Task("t9", together[0], 0, {}, {})
    harder = _idea(_propose("harder", both, [*context, both], 0, few))
    assert sorted(sum(part.levels.values()) for part in harder) == [0, 1]
    easier = _propose("easier", both, [both], 0, few)
    assert len(_idea(easier)) == 1

    # Nothing is below the lowest levels: other questions, which are not harder.
    for seed in range(4):
        idea = _idea(_propose("easier", context[0], context, seed, few))
        assert len(idea) == 1
        assert not any(idea[0].levels.values())


def test_four_questions_at_once() -> None:
    """Whose answers are not all the same, and must all be right, in order."""
    draft = write_draft(lowest(FAMILIES["course_schedule"]), "novel", None, 2, _rng(), _any)
    assert draft.reference is not None
    answer = draft.reference["1"]
    assert re.fullmatch("(True|False)(, (True|False)){3}", answer)
    assert len(set(answer.split(", "))) == 2
    assert len(_questions([draft])) == 8
    (part,) = draft.metadata["parts"]
    dataset, config = DATASETS["course_schedule"]
    settings = levels.configuration("course_schedule", part["levels"])
    asked = [dataset(config(seed=seed, size=1, **settings))[0] for seed in part["seeds"][0]]
    assert ", ".join(item["answer"] for item in asked) == answer
    assert {item["question"].strip() for item in asked} < _questions([draft])
    family = _task_family(draft)
    score = functools.partial(family.score, family.get_tasks()["1"])
    assert score(answer.lower().replace(" ", "") + ".") == 1
    assert score(answer.replace("True", "Maybe")) == 0
    assert score(", ".join(["True"] * 4)) == 0
    assert score(f"{answer}, True") == score("") == 0


def test_two_questions_at_once() -> None:
    """Both answers must be right, and in order; the drafts pass the gate."""
    idea = (*lowest(FAMILIES["number_sorting"]), *lowest(FAMILIES["countdown"]))
    draft = write_draft(idea, "related", "t1", 2, np.random.default_rng(0), _any)
    assert draft.capability == "numbers and arithmetic"
    assert [part["family"] for part in draft.metadata["parts"]] == ["number_sorting", "countdown"]
    assert draft.reference is not None
    right, other = draft.reference["1"], draft.reference["2"]
    first, second = right.removeprefix("First: ").split("\nSecond: ")
    family = _task_family(draft)
    score = functools.partial(family.score, family.get_tasks()["1"])
    assert score(right) == 1
    assert score(f"first: {first}\n\n**Second**: {second}") == 1
    for wrong in (
        *(first, second, other, f"First: {first}", f"First: {second}\nSecond: {first}"),
        f"First: {first}\nSecond: {other.split('Second: ')[1]}",
    ):
        assert score(wrong) == 0
    with Sandbox(2, Limits()) as sandbox:
        (verdict,) = check_drafts([draft], sandbox, 0.5)
    assert isinstance(verdict, CheckedDraft), verdict


@pytest.mark.parametrize(
    "parts",
    [
        *([], "gcd", [{"family": "gcd"}], [{"family": "chess", "levels": {}}], [["gcd"]]),
        *([{"family": "gcd", "levels": {"value": -1}}], [{"family": ["gcd"], "levels": {}}]),
    ],
)
def test_tasks_of_others_have_no_idea(parts: Any) -> None:
    """Whatever their metadata say."""
    assert recorded_idea({"parts": parts}) is None


def test_levels_that_do_not_exist() -> None:
    """A parent at such levels counts as none."""
    parent = _propose("novel", None, [])
    metadata = {"parts": [{"family": "gcd", "levels": {"value": 99}}]}
    task = Task("t1", dataclasses.replace(parent, metadata=metadata), 0, {}, {})
    assert _idea(_propose("harder", task, [task]))


def _idea(draft: Draft) -> Idea:
    idea = recorded_idea(json.loads(json.dumps(dict(draft.metadata))))
    assert idea is not None
    return idea


def test_the_supply_does_not_end() -> None:
    """Once all families are used, their levels are."""
    context: list[Task] = []
    for i in range(12):
        draft = _propose("novel", None, context, i, ("gcd", "lcm", "products"))
        context.append(Task(f"t{i}", draft, 0, {}, {}))
    assert len(_families([task.draft for task in context[:2]])) == 2
    assert len({task.draft.name for task in context}) == 12


@pytest.mark.parametrize("kind", ["novel", "easier"])
def test_a_family_without_questions_at_its_lowest_levels(kind: Kind) -> None:
    parent = Task("t1", _propose("novel", None, [], 0, ("aiw",)), 0, {}, {})
    context = [parent]
    for i in range(3):
        draft = _propose(kind, parent, context, i, ("aiw",))
        context.append(Task(f"t{i + 2}", draft, 0, {}, {}))
    assert _families([task.draft for task in context]) == {"aiw"}


def test_no_questions_to_hold_out() -> None:
    few = TaskPoolOptions(gym_families=("aiw",))
    with pytest.raises(ConfigError, match="too few questions of aiw; name others"):
        task_sets.held_out_questions(0, few)


def test_too_few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and no search without end."""

    def nothing(*_: Any) -> Any:
        raise NoQuestionsError

    monkeypatch.setattr(gym_scientist, "write_draft", nothing)
    with pytest.raises(AcdcError, match="too few questions of gcd; name more families"):
        _propose("novel", None, [], 0, ("gcd",))


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("geometry",), {"simple_geometry"}),
        (("graphs", "-maze", "-graph_color", "-largest_island"), {"family_relationships"}),
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
    names = ("chain_sum", "rotate_matrix", "zebra_puzzles", *puzzles.PUZZLES)
    with Sandbox(2, Limits()) as sandbox:
        verdicts = check_drafts([drafts[name] for name in names], sandbox, 0.5)
    for name, verdict in zip(names, verdicts, strict=True):
        assert isinstance(verdict, CheckedDraft), (name, verdict)
