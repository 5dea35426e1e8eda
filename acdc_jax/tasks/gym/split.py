"""Divide the families, and the questions of each, between a run and what it is measured on."""

import dataclasses
import hashlib

from acdc_jax.tasks.gym.catalogue import Family, choose_families

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
        return _draw(self.prng_seed, question) >= _HELD_OUT_QUESTIONS

    def is_held_out(self, question: str) -> bool:
        """Return whether a question may be in the held-out tasks of the pool's families."""
        return not self.is_for_pool(question)


def split_families(names: tuple[str, ...], prng_seed: int) -> Split:
    """Divide families, category by category.

    Args:
        names: Families and categories, as `choose_families` takes them. A category of which fewer
            than three families are chosen keeps them all.
        prng_seed: The run's.

    Raises:
        ValueError: A name is unknown, or no family is left.
    """
    families = choose_families(names)
    held_out = set[str]()
    for category in dict.fromkeys(family.category for family in families):
        members = [family.name for family in families if family.category == category]
        count = round(_HELD_OUT_FAMILIES * len(members)) or int(len(members) > 2)
        held_out |= set(sorted(members, key=lambda name: _draw(prng_seed, name))[:count])
    return Split(
        tuple(family for family in families if family.name not in held_out),
        tuple(family for family in families if family.name in held_out),
        prng_seed,
    )


def _draw(prng_seed: int, text: str) -> float:
    """Return a number from [0, 1) that depends on nothing but the arguments."""
    digest = hashlib.sha256(f"{prng_seed} {text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
