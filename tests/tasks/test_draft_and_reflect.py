"""Exact conversations about a draft, with the real sandbox."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.draft_and_reflect import write_draft
from acdc_jax.tasks.llm import ChatError, ChatFailure, ChatRefusal
from acdc_jax.tasks.proof import Solve
from acdc_jax.tasks.scientist import TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Kind, Rejection, Task
from acdc_jax.tasks.task_sets import general
from acdc_jax.tasks.validate import check_draft
from tests.support.replies import Replies, in_turn
from tests.support.scripted_server import draft

_POOL = [Task(f"t{i:05d}", d, 0, {}, {}) for i, d in enumerate(general(0))]
_GOOD, _BETTER = draft(1), draft(2)
_BROKEN = {**_GOOD, "code": "class TaskFamily(\n"}
_WRONG = {**_GOOD, "reference": [{"instance": "1", "submission": "0"}]}
_DONE, _NOT_DONE = {"done": "True"}, {"done": False}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Return a real sandbox."""
    with Sandbox(1, Limits()) as sandbox:
        yield sandbox


def _write(
    sandbox: Sandbox,
    *answers: Any,
    kind: Kind = "harder",
    reflections: int = 3,
    solve: Solve | None = None,
) -> tuple[CheckedDraft | Rejection, Replies]:
    chat = Replies(in_turn(*answers))

    async def check(draft: Draft) -> CheckedDraft | Rejection:
        return await check_draft(draft, sandbox, 0.5, solve)

    request = TaskRequest(kind, _POOL[3])
    rng = np.random.default_rng(0)
    return asyncio.run(write_draft(chat, request, _POOL, check, reflections, rng)), chat


def test_a_draft_that_the_author_approves(sandbox: Sandbox) -> None:
    found, chat = _write(sandbox, _GOOD, _GOOD | _DONE)
    assert isinstance(found, CheckedDraft)
    assert found.draft.name == _GOOD["name"]
    assert found.draft.source == _GOOD["code"].strip("\n") + "\n"
    assert found.draft.reference == {r["instance"]: r["submission"] for r in _GOOD["reference"]}
    assert (found.draft.kind, found.draft.parent) == ("harder", "t00003")
    assert set(found.instructions) == {"1", "2"}
    assert [request.purpose for request in chat.asked] == ["propose", "reflect"]
    assert len({request.seed for request in chat.asked}) == 2


def test_prompts_show_drafts_and_results(sandbox: Sandbox) -> None:
    found, chat = _write(sandbox, _GOOD, _BROKEN | _NOT_DONE, _BETTER | _NOT_DONE, _BETTER | _DONE)
    assert isinstance(found, CheckedDraft)
    assert found.draft.name == _BETTER["name"]
    first, *rounds = (request.user for request in chat.asked)
    assert _POOL[3].draft.source in first
    assert sum(task.draft.description in first for task in _POOL) in (3, 4)
    assert "clearly harder" in first
    assert _GOOD["code"] in rounds[0]
    assert found.instructions["1"] not in rounds[0]
    assert "it runs" in rounds[0]
    assert "round 1 of at most 3" in rounds[0]
    assert _BROKEN["code"] in rounds[1]
    assert "does not parse" in rounds[1]
    assert found.instructions["1"] in rounds[2]


def test_the_last_valid_version_is_returned(sandbox: Sandbox) -> None:
    found, _ = _write(sandbox, _GOOD, _BETTER | _NOT_DONE, _BROKEN | _NOT_DONE, "I give up.")
    assert isinstance(found, CheckedDraft)
    assert found.draft.name == _BETTER["name"]


def test_a_draft_that_is_never_valid_is_rejected_with_reason_and_source(sandbox: Sandbox) -> None:
    found, chat = _write(sandbox, "What?", _BROKEN | _DONE, _WRONG | _NOT_DONE, _WRONG | _DONE)
    assert isinstance(found, Rejection)
    assert found.reason == "the reference solution fails on instance 1: '0' scores 0"
    assert found.source.strip() == _WRONG["code"].strip()
    assert (found.kind, found.parent, found.name) == ("harder", "t00003", _WRONG["name"])
    assert len(chat.asked) == 4  # "done" does not end an invalid draft
    assert "no JSON object" in chat.asked[1].user
    assert "What?" in chat.asked[1].user


def test_without_reflection(sandbox: Sandbox) -> None:
    found, chat = _write(sandbox, "no idea", reflections=0)
    assert isinstance(found, Rejection)
    assert found.source == "no idea"
    assert len(chat.asked) == 1


@pytest.mark.parametrize("kind", ["novel", "inspired", "harder", "easier", "related"])
def test_each_kind_has_its_own_prompt(kind: Kind, sandbox: Sandbox) -> None:
    found, chat = _write(sandbox, _GOOD, kind=kind, reflections=0)
    assert isinstance(found, CheckedDraft)
    assert found.draft.kind == kind
    word = {
        "novel": "unrelated",
        "inspired": "takes up one idea",
        "harder": "clearly harder",
        "easier": "clearly easier",
        "related": "different skill of that field",
    }[kind]
    assert word in " ".join(chat.asked[0].user.split())


def test_a_refusal_rejects_the_draft(sandbox: Sandbox) -> None:
    found, _ = _write(sandbox, ChatRefusal("too long"))
    assert found == Rejection("harder", "t00003", "", "too long")
    found, _ = _write(sandbox, _GOOD, ChatRefusal("too long now"))
    assert isinstance(found, CheckedDraft)


def test_a_model_that_is_gone_is_an_error_and_one_failure_is_not(sandbox: Sandbox) -> None:
    for answers in ([ChatError("gone")], [_GOOD, ChatError("gone")]):
        with pytest.raises(ChatError):
            _write(sandbox, *answers)
    found, _ = _write(sandbox, _GOOD, ChatFailure("status 500"))
    assert isinstance(found, CheckedDraft)
    for answers in ([ChatFailure("status 500")], [_BROKEN, ChatFailure("status 500")]):
        found, _ = _write(sandbox, *answers)
        assert isinstance(found, Rejection)
        assert (found.cause, found.reason) == ("infrastructure", "status 500")


def test_the_author_learns_what_right_answers_scored(sandbox: Sandbox) -> None:
    async def solve(instructions: str) -> str:
        return str(sum(map(int, re.findall(r"\d+", instructions))))

    found, chat = _write(sandbox, _WRONG, _GOOD | _DONE, solve=solve)
    assert isinstance(found, CheckedDraft)
    assert found.draft.reference is None
    right = _GOOD["reference"][0]["submission"]
    assert f"submitted '{right}', which scores 1" in chat.asked[1].user
    assert "the reference solution fails on instance 1: '0' scores 0" in chat.asked[1].user
