"""The procedural scientist: real code, right answers, an endless supply, nothing held out."""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.quickstart.language import (
    BY_WORD,
    SEED_SPECS,
    Spec,
    answer,
    is_guessable,
    is_plain,
    split,
)
from acdc_jax.quickstart.scientist import ProceduralScientist
from acdc_jax.quickstart.source import spec_of, write_draft
from acdc_jax.quickstart.task_sets import held_out_families, seed_families
from acdc_jax.tasks.task import Draft, Kind, Task
from acdc_jax.tasks.trial_answers import GUESSES

KINDS: tuple[Kind, ...] = ("novel", "inspired", "harder", "easier", "related")

# Runs families as a stranger would: a fresh interpreter with the standard library only.
RUNNER = """
import json, sys
results = []
for source, submissions in json.load(sys.stdin):
    scope = {}
    exec(compile(source, "task.py", "exec"), scope)
    family = scope["TaskFamily"]
    tasks = family.get_tasks()
    assert tasks == family.get_tasks()
    results.append([
        [family.get_instructions(t), family.score(t, submissions[key]),
         family.score(t, " " + submissions[key] + "\\n"), family.score(t, submissions[key] + "x"),
         family.score(t, "")]
        for key, t in tasks.items()
    ])
json.dump(results, sys.stdout)
"""


def run(drafts: Sequence[Draft]) -> list[list[list[Any]]]:
    work = [(draft.source, dict(draft.reference or {})) for draft in drafts]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUNNER],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        check=True,
    )
    results: list[list[list[Any]]] = json.loads(done.stdout)
    return results


def accepted(draft: Draft | None, number: int = 0) -> Task:
    assert draft is not None
    return Task(f"t{number:05d}", draft, 0, {}, {})


def spec(draft: Draft | None) -> Spec:
    assert draft is not None
    found = spec_of(draft.metadata)
    assert found is not None
    return found


def parent_task(words: Sequence[str], length: int, alphabet: str = "letters") -> Task:
    wanted = Spec(tuple(words), length, alphabet)
    return accepted(write_draft(wanted, "novel", None, 1, np.random.default_rng(0)), 7)


def test_written_families_and_references_agree() -> None:
    singles = [Spec((word,), 4, "letters") for word in BY_WORD]
    chains = [Spec(("mirror", "shout", "advance", "trade"), 6, "letters")]
    rng = np.random.default_rng(0)
    written = [write_draft(s, "novel", None, 3, rng) for s in singles + chains]
    drafts = [*written, *held_out_families(0), *seed_families()]
    for draft, instances in zip(drafts, run(drafts), strict=True):
        assert draft.example_instruction == instances[0][0]
        assert len(draft.reference or ()) == len(instances)
        for number, (instructions, right, padded, wrong, empty) in enumerate(instances):
            prefix = f"{' then '.join(spec(draft).words)}: "
            assert instructions.startswith(prefix)
            text = instructions.removeprefix(prefix)
            assert is_plain(text)
            assert (draft.reference or {})[str(number)] == answer(spec(draft).words, text)
            assert (right, padded, wrong, empty) == (1.0, 1.0, 0.0, 0.0)


def test_sources_are_small_and_import_only_the_standard_library() -> None:
    for draft in held_out_families(1):
        assert len(draft.source) < 3000
        imports = [
            node
            for node in ast.walk(ast.parse(draft.source))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert [ast.unparse(node) for node in imports] == ["import random"]


def test_the_held_out_suite() -> None:
    drafts = held_out_families(5)
    assert [spec(draft) for draft in drafts] == list(split(5).held_out)
    assert all(len(draft.reference or ()) == 4 for draft in drafts)
    assert drafts == held_out_families(5)
    assert drafts != held_out_families(6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 2**30), st.sampled_from([2, 3]))
def test_never_offers_a_held_out_spec(seed: int, key_seed: int, max_steps: int) -> None:
    scientist = ProceduralScientist(split(seed), 1, max_steps)
    key = jax.random.key(key_seed)
    tasks = [accepted(draft, i) for i, draft in enumerate(seed_families())]
    for number in range(20):
        step = jax.random.fold_in(key, number)
        draft = scientist.propose(KINDS[number % 5], tasks[-1 - number % 3], tasks, step)
        assert not scientist.split.is_held_out(spec(draft))
        tasks.append(accepted(draft, len(tasks)))
    specs = [spec(task.draft) for task in tasks]
    assert len(set(specs)) == len(specs)
    assert {BY_WORD[word].new_word for s in specs for word in s.words} == {
        word for s in specs for word in s.words
    }


def test_equal_keys_give_equal_drafts() -> None:
    scientist, context = ProceduralScientist(split(0)), [parent_task(["mirror"], 4)]
    for kind in KINDS:
        first, second, other = (
            scientist.propose(kind, context[0], context, jax.random.key(k)) for k in (1, 1, 2)
        )
        assert first == second
        assert first != other
        assert first is not None
        assert (first.kind, first.parent) == (kind, "t00007")


def test_a_third_of_the_novel_ones_are_single_operations_and_pairs_take_turns() -> None:
    scientist, key = ProceduralScientist(split(0)), jax.random.key(0)
    tasks: list[Task] = []
    for number in range(240):
        draft = scientist.propose("novel", None, tasks, jax.random.fold_in(key, number))
        tasks.append(accepted(draft, number))
    words = [spec(task.draft).words for task in tasks]
    assert 0.25 < sum(len(w) == 1 for w in words) / len(words) < 0.42
    times = [words.count(pair) for pair in scientist.split.pool_pairs]
    assert max(times) - min(times) <= 1


def test_the_supply_is_endless() -> None:
    scientist = ProceduralScientist(split(0), 1)
    parts, rng = scientist.split, np.random.default_rng(0)
    everything = [*parts.pool_singles, *parts.pool_pair_specs]
    used = [
        accepted(write_draft(s, "novel", None, 1, rng), number)
        for number, s in enumerate(everything)
    ]
    for number in range(20):
        draft = scientist.propose("novel", None, used, jax.random.key(number))
        assert len(spec(draft).words) == 3
        assert spec(draft) not in {spec(task.draft) for task in used}
        used.append(accepted(draft, len(used)))
    # Related, harder and easier ones too, whatever the parent.
    for number, kind in enumerate(KINDS):
        assert scientist.propose(kind, used[number], used, jax.random.key(number))


@pytest.mark.parametrize("number", range(6))
def test_kinds_mean_what_they_say(number: int) -> None:
    scientist, key = ProceduralScientist(split(0)), jax.random.key(number)
    pair = scientist.split.pool_pairs[number]
    single, pair_task = parent_task(["mirror"], 4), parent_task(pair, 4)

    def asked(kind: Kind, parent: Task) -> Spec:
        return spec(scientist.propose(kind, parent, [], key))

    for kind in ("inspired", "related"):
        assert set(asked(kind, pair_task).words) & set(pair)
        assert asked(kind, pair_task) != spec(pair_task.draft)
    harder = asked("harder", single)
    assert "mirror" in harder.words
    assert len(harder.words) == 2 or harder.length > 4
    assert asked("harder", pair_task) == Spec(pair, 5, "letters")
    easier = asked("easier", pair_task)
    assert easier == Spec(pair, 3, "letters") or (
        len(easier.words) == 1 and easier.words[0] in pair and easier.length <= 4
    )
    assert asked("easier", single).length <= 4
    assert len(asked("easier", single).words) == 1


def test_depth_grows_where_it_may() -> None:
    scientist = ProceduralScientist(split(0), max_steps=3)
    follows = {first for first, _ in scientist.split.pool_pairs}
    pair = next(p for p in scientist.split.pool_pairs if p[1] in follows)
    parent = parent_task(pair, 4)
    specs = {spec(scientist.propose("harder", parent, [], jax.random.key(k))) for k in range(20)}
    deep = {s for s in specs if len(s.words) == 3}
    assert deep
    assert all(s.words[:2] == pair for s in deep)
    back = spec(
        scientist.propose("easier", parent_task(deep.pop().words, 4), [], jax.random.key(0))
    )
    assert len(back.words) == 2 or back.length == 3


def test_a_parent_of_another_language_counts_as_none() -> None:
    stranger = Draft("riddle", "Guess.", "wit", 1, "What is it?", "", "seed")
    task = accepted(stranger, 3)
    draft = ProceduralScientist(split(0)).propose("harder", task, [task], jax.random.key(0))
    assert draft is not None
    assert draft.parent == "t00003"
    assert spec_of({"words": "mirror", "length": 4, "alphabet": "letters"}) is None
    assert spec_of({"words": ["mirror"], "length": 4, "alphabet": "runes"}) is None


def test_seed_families_are_one_for_each_expert() -> None:
    drafts = seed_families()
    assert {spec(draft) for draft in drafts} == set(SEED_SPECS)
    assert len(drafts) == 8
    assert all((draft.kind, draft.parent) == ("seed", None) for draft in drafts)


def test_every_spec_of_the_pool_has_answers_that_cannot_be_guessed() -> None:
    """Otherwise its draft would be refused, or no seed of its instances found."""
    rng = np.random.default_rng(0)
    specs = {*split(0).pool_singles, *split(0).pool_pair_specs}
    usable = [spec for spec in sorted(specs, key=str) if not is_guessable(spec)]
    assert 0.7 < len(usable) / len(specs) < 0.9
    for spec in usable[::7]:
        draft = write_draft(spec, "novel", None, 2, rng, guessable=False)
        assert draft.reference is not None
        answers = set(draft.reference.values())
        assert len(answers) == 2
        assert not answers & set(GUESSES)
