"""Drafts are admitted in the order of the requests, whatever the order of the answers."""

import asyncio
import dataclasses
import json
import random

import pytest

from acdc_jax.tasks.embeddings import NGrams, TaskIndex
from acdc_jax.tasks.library import Library, admit_drafts
from acdc_jax.tasks.llm import ChatError, ChatRequest
from acdc_jax.tasks.llm_scientist import LlmScientist
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.task import CheckedDraft, Rejection, Task
from tests.support.replies import Replies
from tests.tasks.test_validate import draft as sums

_INSTANCES, _INSTRUCTIONS = {"1": 1, "2": 2}, {"1": "one", "2": "two"}


def _candidate(name: str, description: str) -> CheckedDraft:
    return CheckedDraft(sums(name=name, description=description), _INSTANCES, _INSTRUCTIONS)


def _admit(
    candidates: list[CheckedDraft | Rejection],
    novelty_filter: NoveltyFilter,
    library: Library | None = None,
) -> tuple[Library, list[Task], list[Rejection]]:
    known = library or Library()
    return asyncio.run(admit_drafts(known, candidates, novelty_filter, generation=3, next_id=7))


def test_new_drafts_are_numbered_and_similar_ones_rejected() -> None:
    plus, silent = _candidate("plus", "Add two numbers."), Rejection("novel", None, "", "no idea")
    times = _candidate("times", "Multiply two by three.")
    novelty_filter = NoveltyFilter(TaskIndex(NGrams()), threshold=0.97)
    library, tasks, rejections = _admit([plus, silent, plus, times], novelty_filter)
    assert [task.id for task in tasks] == ["t00007", "t00008"]
    assert [task.draft.name for task in tasks] == ["plus", "times"]
    assert list(library.tasks) == ["t00007", "t00008"]
    assert {task.generation for task in tasks} == {3}
    assert [rejection.reason.split(" (")[0] for rejection in rejections] == [
        "no idea",
        "too similar to plus of this batch",
    ]
    _, tasks, (rejection,) = _admit([plus], novelty_filter, library)
    assert not tasks
    assert "too similar to t00007" in rejection.reason
    assert rejection.source == plus.draft.source


def test_novelty_does_not_depend_on_the_order_of_answers() -> None:
    rng = random.Random(0)
    words = ["river", "bridge", "castle", "meadow", "harbour", "orchard"]
    batch: list[CheckedDraft | Rejection] = [
        _candidate(f"n{i}", " ".join(rng.choices(words, k=4))) for i in range(40)
    ]

    def rule(request: ChatRequest) -> str:
        # The answer depends on the neighbours that are shown, and so on earlier decisions.
        return json.dumps({"new": request.seed % 3 > 0})

    results = []
    for shuffle in range(4):
        chat = Replies(rule, shuffle)
        novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.0, LlmScientist(chat, 0))
        library, tasks, rejections = _admit(batch, novelty_filter)
        results.append(([task.draft for task in tasks], rejections))
        assert len(tasks) + len(rejections) == len(batch)
        assert 5 < len(rejections) < 30
        for request in chat.asked[1:]:
            assert 1 <= request.user.count("- n") - 1 <= 3
    assert results[1:] == results[:-1]
    # Admitting the drafts one by one gives the same result.
    library, accepted = Library(), []
    for item in batch:
        novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.0, LlmScientist(Replies(rule), 0))
        known = library
        library, tasks, _ = asyncio.run(
            admit_drafts(known, [item], novelty_filter, generation=3, next_id=7 + len(accepted))
        )
        accepted += [task.draft for task in tasks]
    assert accepted == results[0][0]


def test_a_failed_novelty_decision_is_an_error() -> None:
    def rule(request: ChatRequest) -> Exception:
        return ChatError("gone")

    novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.0, LlmScientist(Replies(rule), 0))
    batch: list[CheckedDraft | Rejection] = [
        _candidate(f"n{i}", f"number {i * i}") for i in range(5)
    ]
    with pytest.raises(ChatError, match="gone"):
        _admit(batch, novelty_filter)


def test_a_parent_is_kept() -> None:
    plus = _candidate("plus", "Add two numbers.")
    child = dataclasses.replace(plus.draft, kind="harder", parent="t00001")
    _, (task,), _ = _admit(
        [CheckedDraft(child, _INSTANCES, _INSTRUCTIONS)], NoveltyFilter(TaskIndex(NGrams()), 0.9)
    )
    assert task.draft.parent == "t00001"
