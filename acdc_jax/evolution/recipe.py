"""Recipes: how to rebuild a member from its parents."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import GaussianNoise, Noise, SVDNoise


@dataclass(frozen=True)
class Recipe:
    """How one member was bred.

    Attributes:
        id: The member's id, such as `g012-m03`.
        operator: "seed" (a model that the run started from) or "merge".
        parents: Ids of the parents; none for a seed.
        coefficients: One row per parent, one number per group.
        groups: Names of the merge groups.
        merge: How the parents were merged; None for a seed.
        mutation: The noise that followed, or None.
        key: Words of the PRNG key that merge and mutation drew from; none for a seed.
        generation: When it was made.
        content: `content_hash` of the weights; empty before it is bred.
        device: Kind of device that made them: another kind may round differently.
    """

    id: str
    operator: Literal["seed", "merge"]
    parents: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]
    groups: tuple[str, ...]
    merge: MergeOptions | None
    mutation: Noise | None
    key: tuple[int, ...]
    generation: int
    content: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError if the coefficients do not belong to the parents and groups."""
        shape = [len(row) for row in self.coefficients]
        if shape != [len(self.groups)] * len(self.parents):
            raise ValueError(f"recipe of {self.id!r}: coefficients do not fit parents and groups")

    def prng_key(self) -> jax.Array:
        """Return the typed PRNG key whose words are `key`."""
        key: jax.Array = jax.random.wrap_key_data(jnp.asarray(np.array(self.key, np.uint32)))
        return key

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as a JSON object; numbers survive exactly."""
        fields = asdict(self)
        if self.mutation:
            fields["mutation"] = {"kind": self.mutation.kind, **asdict(self.mutation)}
        return fields

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the recipe that `to_json` wrote.

        Raises:
            ValueError: A field is missing or unknown.
            TypeError: Likewise, in the options of the merge or the mutation.
        """
        if odd := {field.name for field in fields(cls)} ^ set(data):
            raise ValueError(f"recipe of {data.get('id')!r}: field {min(odd)!r} does not belong")
        return cls(
            **{
                **data,
                "parents": tuple(data["parents"]),
                "coefficients": tuple(tuple(row) for row in data["coefficients"]),
                "groups": tuple(data["groups"]),
                "merge": MergeOptions(**data["merge"]) if data["merge"] else None,
                "mutation": _read_noise(data["mutation"]) if data["mutation"] else None,
                "key": tuple(data["key"]),
            }
        )


def _read_noise(data: Mapping[str, Any]) -> Noise:
    options = dict(data)
    if options.pop("kind") == SVDNoise.kind:
        return SVDNoise(**options)
    for name in ("rank", "decomposition"):  # older recipes have them, without a meaning
        options.pop(name, None)
    return GaussianNoise(**options)


def key_words(key: jax.Array) -> tuple[int, ...]:
    """Return the words of a typed PRNG key, for `Recipe.key`."""
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key)))
