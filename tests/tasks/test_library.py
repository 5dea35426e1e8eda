"""Drafts are admitted in the order of the requests, whatever the order of the answers."""

import asyncio
import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from acdc_jax.tasks.embeddings import NGrams, TaskIndex
from acdc_jax.tasks.library import Library, admit_drafts
from acdc_jax.tasks.llm import ChatError, ChatRequest
from acdc_jax.tasks.llm_scientist import LlmScientist
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import NoveltyOptions, NoveltyScope
from acdc_jax.tasks.task import CheckedDraft, Kind, Rejection, Task
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


def test_a_failed_decision_about_one_draft_rejects_it_alone() -> None:
    def rule(request: ChatRequest) -> str | Exception:
        return ChatError("status 500") if "n3 " in request.user else json.dumps({"new": True})

    novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.0, LlmScientist(Replies(rule), 0))
    batch: list[CheckedDraft | Rejection] = [_candidate(f"n{i}", f"number {i}") for i in range(5)]
    _, tasks, (rejection,) = _admit(batch[:4], novelty_filter)
    assert [task.draft.name for task in tasks] == ["n0", "n1", "n2"]
    assert (rejection.name, rejection.cause) == ("n3", "infrastructure")


def test_a_parent_is_kept() -> None:
    plus = _candidate("plus", "Add two numbers.")
    child = dataclasses.replace(plus.draft, kind="harder", parent="t00001")
    _, (task,), _ = _admit(
        [CheckedDraft(child, _INSTANCES, _INSTRUCTIONS)], NoveltyFilter(TaskIndex(NGrams()), 0.9)
    )
    assert task.draft.parent == "t00001"


def _of_kind(candidate: CheckedDraft, kind: Kind, source: str = "another") -> CheckedDraft:
    draft = dataclasses.replace(candidate.draft, kind=kind, parent="t00007", source=source)
    return dataclasses.replace(candidate, draft=draft)


def test_easier_and_harder_children_may_resemble_their_parents() -> None:
    """The wordings of the review: cosines of 0.83 and 0.86 to the parent."""
    parent = _candidate("last_two_digits_of_power", "Find the last two digits of a large power.")
    child = _candidate(
        "last_three_digits_of_power_tower",
        "Find the last three digits of a power tower of two large numbers.",
    )
    library, _, _ = _admit([parent], NoveltyFilter(TaskIndex(NGrams()), 0.7))

    def admits(kind: Kind, scope: NoveltyScope) -> bool:
        novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.7, applies_to=scope)
        return bool(_admit([_of_kind(child, kind)], novelty_filter, library)[1])

    assert NoveltyOptions().applies_to == "new_ideas"
    for kind in ("harder", "easier"):
        assert [admits(kind, scope) for scope in get_args(NoveltyScope)] == [True, False, True]
    for kind in ("novel", "inspired", "related"):
        assert [admits(kind, scope) for scope in get_args(NoveltyScope)] == [False, False, True]


@pytest.mark.parametrize("scope", get_args(NoveltyScope))
def test_a_copy_is_never_new(scope: NoveltyScope) -> None:
    parent = _candidate("plus", "Add two numbers.")
    novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.99, applies_to=scope)
    library, _, _ = _admit([parent], novelty_filter)
    copy = _of_kind(parent, "harder", parent.draft.source)
    other = _of_kind(_candidate("times", "Multiply."), "harder")
    _, tasks, rejections = _admit([copy, other, other], novelty_filter, library)
    assert [task.draft.name for task in tasks] == ["times"]
    assert [rejection.name for rejection in rejections] == ["plus", "times"]


def test_the_scientist_sees_only_tasks_above_the_gate() -> None:
    asked: list[str] = []

    def rule(request: ChatRequest) -> str:
        asked.append(request.user)
        return json.dumps({"new": False})

    scientist = LlmScientist(Replies(rule), 0)
    first, near, far = (
        _candidate("plus", "Add two numbers."),
        _candidate("plus", "Add three numbers."),
        _candidate("sonnet", "Write a poem."),
    )
    library, _, _ = _admit([first], NoveltyFilter(TaskIndex(NGrams()), 0.0))
    gated = NoveltyFilter(TaskIndex(NGrams()), 0.0, scientist, gate=0.7)
    _, tasks, (rejection,) = _admit([near, far], gated, library)
    assert [task.draft.name for task in tasks] == ["sonnet"]  # without a question
    assert rejection.name == "plus"
    assert len(asked) == 1
    open_to_all = NoveltyFilter(TaskIndex(NGrams()), 0.0, scientist)
    _, tasks, _ = _admit([near, far], open_to_all, library)
    assert not tasks
    assert len(asked) == 3


def test_generation_0_remembers_drafts_that_were_not_new() -> None:
    novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.8)

    def admit(
        candidate: CheckedDraft, library: Library, generation: int
    ) -> tuple[Library, list[Task], list[Rejection]]:
        return asyncio.run(
            admit_drafts(
                library,
                [candidate],
                novelty_filter,
                generation=generation,
                next_id=len(library.tasks),
            )
        )

    # Each resembles the one before it, and not the one before that.
    steps = [
        _candidate("sum", "Add the numbers of a list and report the sum."),
        _candidate("sum", "Add the numbers of a list and report their mean value."),
        _candidate("mean", "Sort the numbers of a list and report their mean value."),
    ]
    library, tasks, _ = admit(steps[0], Library(), 0)
    assert tasks
    assert admit(steps[2], library, 0)[1]
    for generation, memory in ((0, [steps[1].draft]), (5, [])):
        later, tasks, _ = admit(steps[1], library, generation)
        assert not tasks
        assert list(later.rejected) == memory
        _, tasks, rejections = admit(steps[2], later, 5)
        assert len(rejections) == len(memory)
        assert all("sum, which was rejected" in r.reason for r in rejections)


def test_a_draft_that_cannot_be_embedded_is_rejected_alone() -> None:
    class _Narrow(NGrams):
        gone = False

        async def embed(self, texts: Sequence[str]) -> Any:
            if self.gone or any(len(text) > 200 for text in texts):
                raise ChatError("the text is too long" if not self.gone else "gone")
            return await super().embed(texts)

    embedder = _Narrow()
    batch: list[CheckedDraft | Rejection] = [
        _candidate("plus", "Add two numbers."),
        _candidate("long", "Say this: " + "a b c " * 50),
        _candidate("rhyme", "Write two lines that rhyme."),
    ]
    _, tasks, (rejection,) = _admit(batch, NoveltyFilter(TaskIndex(embedder), 0.9))
    assert [task.draft.name for task in tasks] == ["plus", "rhyme"]
    assert (rejection.name, rejection.cause) == ("long", "infrastructure")
    assert "too long" in rejection.reason
    embedder.gone = True
    with pytest.raises(ChatError, match="gone"):
        _admit([_candidate("minus", "Subtract.")], NoveltyFilter(TaskIndex(embedder), 0.9))
