"""Several members as one tree, where they are small enough to be decoded as one batch."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from acdc_jax.params import Params


@jax.jit
def stack(members: Sequence[Params]) -> Params:
    """Trees of equal shapes → one tree whose leaves have a leading axis [len(members), …]."""
    return {path: jnp.stack([member[path] for member in members]) for path in members[0]}


def as_population(members: Sequence[Params], size: int) -> Params:
    """At most `size` members as the engine wants them.

    Returns:
        Where `size` is 1, the member itself. Else the stacked members, padded by repetition, so
        that decoding compiles once.
    """
    if size == 1:
        (member,) = members
        return member
    population: Params = stack([*members, *[members[0]] * (size - len(members))])
    return population


def in_populations(
    members: Sequence[str],
    weights: Callable[[str], Params],
    size: int,
    prefetch: Callable[[Sequence[str]], None] = lambda names: None,
) -> Iterator[tuple[Sequence[str], Params]]:
    """Groups members into populations of one size.

    Args:
        members: ids.
        weights: gives a member's weights.
        size: members per group.
        prefetch: told which members will be asked for next, before a group is looked at.

    Yields:
        At most `size` ids, and their weights as in `as_population`.
    """
    for start in range(0, len(members), size):
        group = members[start : start + size]
        population = as_population([weights(member) for member in group], size)
        prefetch(members[start + size : start + 2 * size])
        yield group, population
        del population  # before the next one comes
