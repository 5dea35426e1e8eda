"""Prompts into groups of few shapes: every new shape is compiled for."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_SMALLEST_BUCKET = 8
_SMALLEST_BATCH = 8

Integers = npt.NDArray[np.int32]


def bucket(length: int) -> int:
    """Returns the padded length of a prompt: 8, 12, 16, 24, 32, 48, …"""
    size = _SMALLEST_BUCKET
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def grouped(
    lengths: Sequence[int], rows: Callable[[int], int], *, mixed: bool
) -> list[tuple[list[int], int]]:
    """Divides prompts into groups that are read at once, short ones first.

    Args:
        lengths: Of each prompt.
        rows: Padded length → most prompts in a group.
        mixed: Whether prompts that do not fill a group go along with longer ones: more padding, but
            fewer shapes and fewer groups.

    Returns:
        The groups' indices and padded lengths.
    """
    buckets: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        buckets.setdefault(bucket(length), []).append(i)
    groups: list[tuple[list[int], int]] = []
    indices: list[int] = []
    padded = 0
    for padded, members in sorted(buckets.items()):
        indices += members
        size = rows(padded)
        while len(indices) >= size or (indices and not mixed):
            groups.append((indices[:size], padded))
            indices = indices[size:]
    if indices:
        groups.append((indices, padded))
    return groups


def halved(most: int, needed: int) -> int:
    """Returns `most`, halved as long as `needed` rows fit: few sizes, and little that is empty."""
    rows = most
    while rows // 2 >= max(needed, _SMALLEST_BATCH):
        rows //= 2
    return rows


def padded(prompts: Sequence[Sequence[int]], rows: int, length: int, pad_token: int) -> Integers:
    """Returns [rows, length] tokens, padded on the right."""
    tokens = np.full((rows, length), pad_token, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens all prompts begin with."""
    if not prompts:
        return 0
    # The first and the last in order differ where any two do.
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    shorter = min(len(first), len(last))
    return next((i for i in range(shorter) if first[i] != last[i]), shorter)
