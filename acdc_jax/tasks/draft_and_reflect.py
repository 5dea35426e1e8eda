"""Write one draft with a chat model: propose, check, reflect, and check again (paper §3.2).

There is one coroutine per draft; hundreds of them wait for the model and the sandbox concurrently.
A draft depends only on its request and its random numbers, not on when other drafts finish.
"""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from acdc_jax.tasks import prompts
from acdc_jax.tasks.llm import ChatFailure, ChatModel, ChatRefusal, ChatRequest
from acdc_jax.tasks.llm_output import extract_code, extract_object, is_true
from acdc_jax.tasks.scientist import Check, TaskRequest
from acdc_jax.tasks.task import Cause, CheckedDraft, Draft, Rejection, Task

_SHOWN_TASKS = 3  # of the pool, by description
_SHOWN_ANSWER = 4_000  # characters shown of an answer that contains no draft
_NAME, _TEXT = 80, 2_000  # maximum characters of the name and of other fields
_NUMBER = re.compile(r"(?P<value>-?\d+(?:\.\d+)?)(?:\s*(?:/|out of|of)\s*(?P<top>\d+))?")
_DIFFICULTY_WORDS = {
    **dict.fromkeys(("very easy", "trivial"), 1),
    **dict.fromkeys(("very hard", "very difficult", "expert", "extreme"), 5),
    **dict.fromkeys(("medium", "moderate", "moderately", "intermediate", "average"), 3),
    **dict.fromkeys(("easy", "simple", "beginner"), 1),
    **dict.fromkeys(("hard", "difficult"), 5),
    **dict.fromkeys(("challenging", "advanced"), 4),
}


@dataclasses.dataclass(frozen=True)
class _Version:
    """One version of a draft: its source, or else the model's answer, and the check's result."""

    source: str
    verdict: CheckedDraft | Rejection


async def write_draft(
    chat: ChatModel,
    request: TaskRequest,
    active_tasks: Sequence[Task],
    check: Check,
    reflections: int,
    rng: np.random.Generator,
    judged: bool = True,
) -> CheckedDraft | Rejection:
    """Write a draft and let the model improve it.

    Args:
        chat: The model that writes.
        request: What to write.
        active_tasks: Tasks of the pool; the model sees a few of them.
        check: Runs a draft in the sandbox.
        reflections: Maximum number of rounds in which the model may improve the draft.
        rng: Chooses the tasks to show and the seeds of the model's sampling.
        judged: Whether the draft may ask an LLM judge.

    Returns:
        The last version that passed `check`, or the reason why there is none.

    Raises:
        ChatError: The model is gone.
    """
    indices = rng.choice(len(active_tasks), min(_SHOWN_TASKS, len(active_tasks)), replace=False)
    others = [active_tasks[i] for i in indices if active_tasks[i].id != request.parent.id]
    seeds = [int(seed) for seed in rng.integers(2**31, size=1 + reflections)]
    versions: list[_Version] = []
    try:
        async with chat.drafting():
            prompt = prompts.propose(request.kind, request.parent, others, judged)
            answer = await _complete(chat, "propose", prompt, seeds[0])
            versions.append(await _check_answer(answer, request, check))
            for round_ in range(1, 1 + reflections):
                last = versions[-1]
                if isinstance(last.verdict, Rejection) and last.verdict.cause == "infrastructure":
                    break
                prompt = prompts.reflect(
                    request.kind,
                    request.parent,
                    last.source,
                    _result(last),
                    round_,
                    reflections,
                    judged,
                )
                answer = await _complete(chat, "reflect", prompt, seeds[round_])
                if _is_done(answer) and isinstance(last.verdict, CheckedDraft):
                    break
                versions.append(await _check_answer(answer, request, check))
    except ChatRefusal as error:
        cause: Cause = "infrastructure" if isinstance(error, ChatFailure) else "draft"
        reason = Rejection(request.kind, request.parent.id, "", str(error), cause=cause)
        if not versions or cause == "infrastructure":
            versions.append(_Version("", reason))
    for version in reversed(versions):
        if isinstance(version.verdict, CheckedDraft):
            return version.verdict
    return versions[-1].verdict


def parse_draft(answer: str, request: TaskRequest) -> Draft:
    """Return the draft in a model's answer, without running any of it.

    Raises:
        ValueError: A field is missing or invalid; the message names it.
    """
    # Objects in the code may have a name, too.
    fields = extract_object(answer, "name", "capability")
    source = extract_code(fields.get("code"), answer)
    if not source:
        raise ValueError("the answer contains no code")
    return Draft(
        name=_text(fields, "name", _NAME),
        description=_text(fields, "description", _TEXT),
        capability=_text(fields, "capability", _TEXT),
        difficulty=_difficulty(fields.get("difficulty")),
        example_instruction=_text(fields, "example_instruction", _TEXT),
        source=source,
        kind=request.kind,
        parent=request.parent.id,
        reference=_reference(fields.get("reference")),
    )


async def _complete(chat: ChatModel, purpose: str, prompt: prompts.Prompt, seed: int) -> str:
    """Return a sampled answer."""
    return await chat.complete(
        ChatRequest(purpose, prompt.system, prompt.user, seed, prompt.schema)
    )


async def _check_answer(answer: str, request: TaskRequest, check: Check) -> _Version:
    """Parse and check the draft in an answer."""
    try:
        draft = parse_draft(answer, request)
    except ValueError as error:
        source = answer[:_SHOWN_ANSWER]
        return _Version(source, Rejection(request.kind, request.parent.id, "", str(error), source))
    return _Version(draft.source, await check(draft))


def _result(version: _Version) -> str:
    """Describe the check's result to the author."""
    advice = version.verdict.advice
    if isinstance(version.verdict, Rejection):
        return f"it cannot be used, because {version.verdict.reason}. {advice}".rstrip()
    instructions = "\n".join(
        f"instance {key}: {text}" for key, text in version.verdict.instructions.items()
    )
    return (
        f"it runs; its scoring is stable, and wrong answers fail. {advice}\nWhat a solver would be "
        f"asked:\n{instructions[:_TEXT]}"
    )


def _is_done(answer: str) -> bool:
    """Return whether the model accepts the last version."""
    try:
        return is_true(extract_object(answer, "done")["done"])
    except ValueError:
        return False


def _text(fields: dict[str, Any], name: str, max_length: int) -> str:
    """Return a text field, cut to `max_length` characters."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the field {name!r} is missing or not a text")
    return value.strip()[:max_length]


def _difficulty(value: object) -> int:
    """Return the difficulty from 1 to 5. Models also write "3 (moderate)", "3/5", 3.0 or "hard"."""
    text = str(value).lower()
    if number := _NUMBER.search(text):
        top = float(number["top"] or 0)
        share = float(number["value"]) * (5 / top if top else 1)
        return min(max(math.floor(share + 0.5), 1), 5)
    words = [word for word in _DIFFICULTY_WORDS if re.search(rf"\b{word}\b", text)]
    if not words:
        raise ValueError(f"the difficulty is not a number: {str(value)[:40]}")
    return _DIFFICULTY_WORDS[words[0]]


def _reference(value: object) -> dict[str, str] | None:
    """Return instance → submission from a list of such pairs, from one pair, or from an object."""
    if isinstance(value, dict) and {"instance", "submission"} <= value.keys():
        value = [value]
    if isinstance(value, dict):
        pairs = [(key, submission) for key, submission in value.items()]
    elif isinstance(value, list):
        items = [item for item in value if isinstance(item, dict)]
        pairs = [(item.get("instance"), item.get("submission")) for item in items]
        if value and all(key is None for key, _ in pairs):
            raise ValueError("the reference has no pair of an 'instance' and a 'submission'")
    else:
        pairs = []
    reference = {str(key): _submission(item) for key, item in pairs if key is not None}
    return {key: text for key, text in reference.items() if text.strip()} or None


def _submission(value: object) -> str:
    """Return a reference as text. Models also write numbers and JSON; null stands for none."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
