"""The life of one LLM-written draft: propose, parse, run, reflect, and run again (paper §3.2).

One coroutine per draft; hundreds of them wait for the model and the sandbox at the same time. What
a draft becomes depends on its request and its key alone, not on when the others finish.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from acdc_jax.tasks import prompts
from acdc_jax.tasks.llm import ChatModel, ChatRefusal, ChatRequest
from acdc_jax.tasks.llm_output import extract_code, extract_object, is_true
from acdc_jax.tasks.scientist import Check, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task

_SHOWN_TASKS = 3  # of the pool, by description
_SHOWN_ANSWER = 4_000  # characters of an answer in which no draft was found
_NAME, _TEXT = 80, 2_000  # characters of a name and of other fields


@dataclasses.dataclass(frozen=True)
class _Version:
    """One answer of the model: the draft in it, and what became of it."""

    source: str
    verdict: CheckedDraft | Rejection


async def write_draft(
    chat: ChatModel,
    request: TaskRequest,
    shown: Sequence[Task],
    check: Check,
    reflections: int,
    rng: np.random.Generator,
) -> CheckedDraft | Rejection:
    """Takes one draft from the request to its last version.

    Args:
        chat: who writes.
        request: what is wanted.
        shown: active tasks, of which a few are shown.
        check: tries a draft in the sandbox.
        reflections: rounds in which the model may improve the draft.
        rng: decides what is shown, and the seeds of the model's sampling.

    Returns:
        The last version that passed `check`, or why there is none.

    Raises:
        AcdcError: the model or the sandbox failed.
    """
    picked = rng.choice(len(shown), min(_SHOWN_TASKS, len(shown)), replace=False)
    others = [shown[i] for i in picked if shown[i].id != request.parent.id]
    seeds = [int(seed) for seed in rng.integers(2**31, size=1 + reflections)]
    versions: list[_Version] = []
    try:
        async with chat.writing():
            prompt = prompts.propose(request.kind, request.parent, others)
            answer = await _ask(chat, "propose", prompt, seeds[0], prompts.DRAFT_SCHEMA)
            versions.append(await _try(answer, request, check))
            for round_ in range(1, 1 + reflections):
                last = versions[-1]
                prompt = prompts.reflect(
                    request.kind,
                    request.parent,
                    last.source,
                    _evaluation(last),
                    round_,
                    reflections,
                )
                answer = await _ask(
                    chat, "reflect", prompt, seeds[round_], prompts.REFLECTION_SCHEMA
                )
                if _is_done(answer) and isinstance(last.verdict, CheckedDraft):
                    break
                versions.append(await _try(answer, request, check))
    except ChatRefusal as error:
        if not versions:
            return Rejection(request.kind, request.parent.id, "", str(error))
    for version in reversed(versions):
        if isinstance(version.verdict, CheckedDraft):
            return version.verdict
    return versions[-1].verdict


def parse_draft(answer: str, request: TaskRequest) -> Draft:
    """The draft in a model's answer; nothing of it is run.

    Raises:
        ValueError: a field is missing or makes no sense, named.
    """
    fields = extract_object(answer, "name")
    source = extract_code(fields.get("code"), answer)
    if not source:
        raise ValueError("the answer holds no code")
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


async def _ask(
    chat: ChatModel, purpose: str, prompt: prompts.Prompt, seed: int, schema: Any
) -> str:
    return await chat.complete(ChatRequest(purpose, *prompt, seed, schema))


async def _try(answer: str, request: TaskRequest, check: Check) -> _Version:
    try:
        draft = parse_draft(answer, request)
    except ValueError as error:
        source = answer[:_SHOWN_ANSWER]
        rejection = Rejection(request.kind, request.parent.id, "", str(error), source)
        return _Version(source, rejection)
    return _Version(draft.source, await check(draft))


def _evaluation(version: _Version) -> str:
    """What running a version has shown, in words for its author."""
    if isinstance(version.verdict, Rejection):
        return f"it cannot be used, because {version.verdict.reason}."
    asked = "\n".join(
        f"instance {key}: {text}" for key, text in version.verdict.instructions.items()
    )
    return (
        "it runs; its scoring is stable, and wrong answers fail. What a solver would be asked:\n"
        f"{asked[:_TEXT]}"
    )


def _is_done(answer: str) -> bool:
    try:
        return is_true(extract_object(answer, "done")["done"])
    except ValueError:
        return False


def _text(fields: dict[str, Any], name: str, most: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the field {name!r} is missing or no text")
    return value.strip()[:most]


def _difficulty(value: object) -> int:
    """1 to 5; models also write "3" or 3.0."""
    try:
        number = int(float(str(value)))
    except (ValueError, OverflowError):
        raise ValueError(f"the difficulty is no number: {str(value)[:40]}") from None
    return min(max(number, 1), 5)


def _reference(value: object) -> dict[str, str] | None:
    """Instance → submission, from a list of such pairs, from one pair, or from an object."""
    if isinstance(value, dict) and {"instance", "submission"} <= value.keys():
        value = [value]
    if isinstance(value, dict):
        pairs = [(key, submission) for key, submission in value.items()]
    elif isinstance(value, list):
        items = [item for item in value if isinstance(item, dict)]
        pairs = [(item.get("instance"), item.get("submission")) for item in items]
    else:
        pairs = []
    found = {str(key): str(text) for key, text in pairs if key is not None and text is not None}
    if isinstance(value, list) and value and not found:
        raise ValueError("the reference has no pair of an 'instance' and a 'submission'")
    return found or None
