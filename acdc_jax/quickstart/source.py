"""Write a spec of the skill language as a task family, with a self-contained `task.py`."""

import functools
import inspect
from collections.abc import Callable, Mapping

import numpy as np

from acdc_jax.quickstart import language, operations
from acdc_jax.quickstart.language import ALPHABETS, BY_WORD, Spec
from acdc_jax.tasks.task import Draft, Json, Kind
from acdc_jax.tasks.trial_answers import GUESSES

_TEMPLATE = '''\
"""{description}"""

import random


{functions}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, str]]:
        rng = random.Random({seed})
        return {{str(i): {{"text": {draw}}} for i in range({instances})}}

    @staticmethod
    def get_instructions(t: dict[str, str]) -> str:
        return "{instruction}" + t["text"]

    @staticmethod
    def score(t: dict[str, str], submission: str) -> float:
        return float(submission.strip() == {answer})
'''


def write_draft(
    spec: Spec,
    kind: Kind,
    parent: str | None,
    instances: int,
    rng: np.random.Generator,
    *,
    guessable: bool = True,
) -> Draft:
    """Write the family of a spec.

    Args:
        spec: Operations, length and alphabet.
        kind: Kind of the draft.
        parent: Id of the task that it was made from, if any.
        instances: Number of instances.
        rng: Draws the seed of the instances, which the source contains.
        guessable: Whether answers may be equal, or among those that a solver may guess. The check
            of drafts for the pool refuses these.

    Returns:
        The draft, with reference solutions and the spec in its metadata.
    """
    seed = _instance_seed(spec, instances, rng, guessable=guessable)
    texts = language.instances(spec, instances, seed)
    description = _description(spec)
    return Draft(
        name="-".join([*spec.words, str(spec.length), spec.alphabet]),
        description=description,
        capability=_capability(spec),
        difficulty=_difficulty(spec),
        example_instruction=spec.instruction(texts[0]),
        source=_source(spec, description, instances, seed),
        kind=kind,
        parent=parent,
        reference={str(i): language.answer(spec.words, text) for i, text in enumerate(texts)},
        metadata={"words": list(spec.words), "length": spec.length, "alphabet": spec.alphabet},
    )


def spec_of(metadata: Mapping[str, Json]) -> Spec | None:
    """Return the spec that `write_draft` recorded, or None if the family is in no such language."""
    words, length, alphabet = (metadata.get(name) for name in ("words", "length", "alphabet"))
    if not isinstance(words, list) or not words or not all(word in BY_WORD for word in words):
        return None
    if not isinstance(length, int) or not isinstance(alphabet, str) or alphabet not in ALPHABETS:
        return None
    return Spec(tuple(words), length, alphabet)


def _instance_seed(spec: Spec, instances: int, rng: np.random.Generator, *, guessable: bool) -> int:
    """Draw a seed for which no text happens to be a word of the language."""
    while True:
        seed = int(rng.integers(2**31))
        texts = language.instances(spec, instances, seed)
        answers = {language.answer(spec.words, text) for text in texts}
        different = len(answers) == instances and not answers & set(GUESSES)
        if all(map(language.is_plain, texts)) and (guessable or different):
            return seed


def _source(spec: Spec, description: str, instances: int, seed: int) -> str:
    steps = [BY_WORD[word] for word in spec.words]
    functions: list[Callable[..., str]] = []
    answer = 't["text"]'
    for step in steps:
        functions += [*step.helpers, step.apply]
        answer = f"{step.apply.__name__}({answer})"
    draw = steps[0].draw
    if draw is None:
        functions.insert(0, operations.draw_text)
        draw_call = f'draw_text(rng, "{ALPHABETS[spec.alphabet]}", {spec.length})'
    else:
        functions.insert(0, draw)
        draw_call = f"{draw.__name__}(rng, {language.operand_limit(spec.length)})"
    return _TEMPLATE.format(
        description=description,
        functions="\n\n\n".join(_text(function) for function in dict.fromkeys(functions)),
        seed=seed,
        draw=draw_call,
        instances=instances,
        instruction=spec.instruction(""),
        answer=answer,
    )


@functools.cache
def _text(function: Callable[..., str]) -> str:
    return inspect.getsource(function).strip()


def _description(spec: Spec) -> str:
    """Return e.g. `mirror (the symbols in the opposite order), then shout (…), on 4 letters.`"""
    steps = ", then ".join(f"{word} ({_meaning(word)})" for word in spec.words)
    return f"{steps}, on {_material(spec)}."


def _meaning(word: str) -> str:
    first = (BY_WORD[word].apply.__doc__ or "").partition("\n")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _material(spec: Spec) -> str:
    if BY_WORD[spec.words[0]].draw is not None:
        return f"a number below {language.operand_limit(spec.length)} and a digit"
    return f"{spec.length} {spec.alphabet}"


def _capability(spec: Spec) -> str:
    groups = [BY_WORD[word].group for word in spec.words]
    if len(groups) == 1:
        return f"text operation: {groups[0]}"
    return f"composition of {len(groups)} text operations: {', '.join(groups)}"


def _difficulty(spec: Spec) -> int:
    """Return 1 or 2 for one operation, 3 or 4 for a pair, 5 for more."""
    return min(5, 2 * len(spec.words) - 1 + (spec.length > 4))
