"""Divide the families, and the questions of each, between a run and what it is measured on."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from acdc_jax.tasks.gym.catalogue import Family

_HELD_OUT_FAMILIES = 0.2  # share of every category with several families
_HELD_OUT_QUESTIONS = 0.25  # share of a family's questions


@dataclasses.dataclass(frozen=True)
class Split:
    """What a run may use.

    Attributes:
        pool: Families of the run's tasks.
        held_out: Families that only held-out tasks are drawn from.
        prng_seed: The run's.
    """

    pool: tuple[Family, ...]
    held_out: tuple[Family, ...]
    prng_seed: int

    def is_for_pool(self, question: str) -> bool:
        """Return whether a question may be in the run's tasks.

        A hash of its text decides. So no question is ever on both sides, also where two seeds make
        the same question.
        """
        digest = hashlib.sha256(f"{self.prng_seed} {question}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 >= _HELD_OUT_QUESTIONS

    def is_held_out(self, question: str) -> bool:
        """Return whether a question may be in the held-out tasks of the pool's families."""
        return not self.is_for_pool(question)


def split_families(families: Sequence[Family], prng_seed: int) -> Split:
    """Divide families, category by category.

    Args:
        families: All families of the run. A category with a single one keeps it.
        prng_seed: The run's.
    """
    rng = np.random.default_rng(prng_seed)
    held_out = set[str]()
    for category in dict.fromkeys(family.category for family in families):
        names = [family.name for family in families if family.category == category]
        count = round(_HELD_OUT_FAMILIES * len(names)) or int(len(names) > 2)
        held_out |= {names[i] for i in rng.permutation(len(names))[:count]}
    return Split(
        tuple(family for family in families if family.name not in held_out),
        tuple(family for family in families if family.name in held_out),
        prng_seed,
    )
