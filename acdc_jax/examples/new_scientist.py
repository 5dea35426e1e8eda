"""A scientist of your own: it makes a task harder by longer words, and easier by shorter ones.

A run asks its scientist for drafts and passes each through `check`, which runs it in the sandbox.
See `acdc_jax.tasks.scientist` for the rules that a scientist keeps. To use this one with
`acdc run --scientist=spelling`, register it in your package's `pyproject.toml`:

    [project.entry-points."acdc_jax.scientists"]
    spelling = "my_package.scientist:spelling_scientist"
"""

from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

import jax
import numpy as np

from acdc_jax.prng import host_rng
from acdc_jax.tasks.scientist import Check, Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task

_SOURCE = """
class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, str]:
        return {words}

    @staticmethod
    def get_instructions(t: str) -> str:
        return f"Spell backwards: {{t}}"

    @staticmethod
    def score(t: str, submission: str) -> float:
        return float(submission.strip() == t[::-1])
"""
_STEPS = {"harder": 1, "easier": -1}


class SpellingScientist(Scientist):
    """Writes families of words to spell backwards."""

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        """See `Scientist.write`."""
        # All random numbers come from `key`, so that a run can be repeated.
        rng = host_rng(key)
        lengths = rng.integers(3, 12, len(requests))
        return [
            await check(_draft(request, int(length), rng))
            for request, length in zip(requests, lengths, strict=True)
        ]

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """Return whether no neighbour has words of the same length."""
        return all(
            task.draft.metadata.get("length") != draft.metadata["length"] for task in nearest
        )


def _draft(request: TaskRequest, random_length: int, rng: np.random.Generator) -> Draft:
    """Return a family of words, longer than the parent's if a harder task is requested."""
    parent_length = request.parent.draft.metadata.get("length")
    step = _STEPS.get(request.kind)
    length = random_length
    if step is not None and isinstance(parent_length, int):
        length = max(1, parent_length + step)
    words = {str(i): "".join(rng.choice(list(ascii_lowercase), length)) for i in range(4)}
    return Draft(
        name=f"spell {length} letters backwards",
        description=f"Spell words of {length} letters backwards.",
        capability="spelling",
        difficulty=min(5, 1 + length // 3),
        example_instruction="Spell backwards: abc",
        source=_SOURCE.format(words=words),
        kind=request.kind,
        parent=request.parent.id,
        # A draft is accepted only if an answer is known to pass.
        reference={key: word[::-1] for key, word in words.items()},
        metadata={"length": length},
    )


def spelling_scientist(options: Any, prng_seed: int) -> Scientist:
    """Return the scientist; `options` holds the scientist's flags, which it does not need."""
    del options, prng_seed
    return SpellingScientist()
