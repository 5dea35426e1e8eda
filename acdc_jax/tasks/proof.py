"""Show that some answer to a draft can pass: the author's reference, or a solver's submission.

A reference that fails does not show that the score is wrong: authors miscalculate. So the solver
gets the instance whose reference fails. If it passes, the reference is wrong, and is left out.
"""

import dataclasses
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.task import Json

Solve = Callable[[str], Coroutine[Any, Any, str]]
"""Instructions → what a solver submits. Raises AcdcError if the solver cannot be reached."""


class Score(Protocol):
    """Scores submissions."""

    def __call__(
        self, answers: Sequence[tuple[str, str]], *, alone: bool = False
    ) -> Coroutine[Any, Any, list[float]]:
        """Return the scores of (instance, submission) pairs, with `alone` scored one by one."""


_SHOWN = 300  # characters shown of an answer or an instance


class FlawError(Exception):
    """A draft cannot be used. The arguments are the reason, and advice for its author."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason, advice)
        self.reason, self.advice = reason, advice


@dataclasses.dataclass(frozen=True)
class Proof:
    """Answers that pass.

    Attributes:
        reference: Instance → a solution that passes.
        answers: All answers that pass, also the solver's.
        advice: What was found, for the author.
    """

    reference: Mapping[str, str]
    answers: Sequence[str]
    advice: str


@dataclasses.dataclass(frozen=True)
class References:
    """The author's solutions after they were tried.

    Attributes:
        passing: Instance → a solution that passes.
        failing: Instance → a solution that fails, and its score.
    """

    passing: Mapping[str, str]
    failing: Mapping[str, tuple[str, float]]

    def require_all(self) -> None:
        """Raise a FlawError if one fails."""
        for key, (text, value) in self.failing.items():
            raise FlawError(_failure(key, text, value))


async def sort_references(
    reference: Mapping[str, str], scores: Sequence[float], score: Score, threshold: float
) -> References:
    """Return which references pass, given their scores.

    One that declares its answer as a response does, `Answer: 42`, is also tried without that, and
    without marks or quotes around it.
    """
    values = dict(zip(reference, scores, strict=True))
    passing = {key: text for key, text in reference.items() if values[key] >= threshold}
    forms = [
        (key, form)
        for key, text in reference.items()
        if key not in passing
        for form in _bare_forms(text)
    ]
    for (key, form), value in zip(forms, await score(forms), strict=True):
        if value >= threshold:
            passing.setdefault(key, form)
    failing = {key: (reference[key], values[key]) for key in reference if key not in passing}
    return References(passing, failing)


def _bare_forms(text: str) -> list[str]:
    """Return what a reference may be without its declaration, and without the marks around it."""
    bare = extract_answer(f"Answer:\n{text}")
    quoted = len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'"
    forms = [extract_answer(text), bare, bare[1:-1] if quoted else bare.removesuffix(".")]
    return [form for form in dict.fromkeys(forms) if form not in ("", text)]


async def prove(
    instances: Mapping[str, Json],
    instructions: Mapping[str, str],
    references: References,
    score: Score,
    threshold: float,
    solve: Solve | None,
) -> Proof:
    """Return answers that pass.

    Args:
        instances: Instance → its data.
        instructions: Instance → its instructions.
        references: The author's solutions of some instances.
        score: Scores submissions.
        threshold: Score from which a submission passes.
        solve: Solves one instance; None if there is no solver.

    Raises:
        FlawError: No answer is known to pass, or a reference fails and the solver does not pass
            there either.
    """
    passing, failing = references.passing, references.failing
    if solve is None:
        references.require_all()
        if not passing:
            raise FlawError("no answer is known to pass: there is no reference, and no solver")
        return Proof(passing, list(passing.values()), "")
    key = next(iter(failing or instances))
    attempt = await solve(instructions[key])
    (value,) = await score([(key, attempt)])
    solver = f"a solver that saw only the instructions submitted {_shown(attempt)}"
    if value < threshold and failing:
        agrees = attempt.split() == failing[key][0].split()
        raise FlawError(
            f"{_failure(key, *failing[key])}; {solver}, which scores {value:g}",
            (_AGREE if agrees else _DIFFER) + _data(key, instances[key]),
        )
    if value < threshold and not passing:
        raise FlawError(
            f"no answer is known to pass: there is no reference, and on instance {key} {solver}, "
            f"which scores {value:g}",
            _UNSOLVED + _data(key, instances[key]),
        )
    advice = f"On instance {key}, {solver}, which scores {value:g}."
    if failing:
        advice += f" But {_failure(key, *failing[key])}. {_DROPPED}"
    elif value < threshold and key in passing:
        advice += f" The reference, {_shown(passing[key])}, passes. {_UNCLEAR}"
    answers = [*passing.values(), *([attempt] if value >= threshold else [])]
    return Proof(passing, answers, advice)


_AGREE = (
    "Both answers are the same, so that the fault is probably in `score`: it may compare a text "
    "with a number, or demand a form that the instructions do not state."
)
_DIFFER = (
    "The reference, the solver or `score` may be wrong. Work the instance out again. If the "
    "reference is wrong, correct it or leave it out; do not bend `score` to a number that you are "
    "not sure of."
)
_UNSOLVED = (
    "The solver or `score` may be wrong, or the instructions do not state the form of the answer. "
    "Find out which; if the task is right but hard, give a reference that you are sure of."
)
_DROPPED = "So the reference is wrong, and not `score`; references that fail are left out."
_UNCLEAR = "If the task is not meant to be hard, make the instructions clearer."


def _failure(key: str, reference: str, value: float) -> str:
    return f"the reference solution fails on instance {key}: {_shown(reference)} scores {value:g}"


def _data(key: str, instance: Json) -> str:
    """Return what `score` compares a submission with."""
    data = json.dumps(instance, ensure_ascii=False)
    return f" On instance {key}, `score` gets t = {_cut(data)}."


def _shown(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
