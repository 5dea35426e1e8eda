"""Group prompts into few shapes, because every new shape is compiled."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_SMALLEST_BUCKET = 8
_SMALLEST_COARSE = 64
_SMALLEST_BATCH = 8

Integers = npt.NDArray[np.int32]


def bucket(length: int, *, coarse: bool = False) -> int:
    """Return the padded length of a prompt: 8, 12, 16, 24, 32, 48, …; coarse: 64, 128, 256, …"""
    if coarse:
        return max(_SMALLEST_COARSE, 1 << (length - 1).bit_length())
    size = _SMALLEST_BUCKET
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def group_prompts(
    lengths: Sequence[int], rows: Callable[[int], int], *, mixed: bool, coarse: bool = False
) -> list[tuple[list[int], int]]:
    """Divide prompts into groups that are prefilled at once, short ones first.

    Args:
        lengths: Length of each prompt.
        rows: Padded length → most prompts in a group.
        mixed: Whether prompts that do not fill a group join longer ones: more padding, but fewer
            shapes and fewer groups.
        coarse: Whether padded lengths are coarse; see `bucket`.

    Returns:
        Indices and padded length of each group.
    """
    buckets: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        buckets.setdefault(bucket(length, coarse=coarse), []).append(i)
    groups: list[tuple[list[int], int]] = []
    indices: list[int] = []
    padded = 0
    for padded, prompts in sorted(buckets.items()):
        indices += prompts
        size = rows(padded)
        while len(indices) >= size or (indices and not mixed):
            groups.append((indices[:size], padded))
            indices = indices[size:]
    if indices:
        groups.append((indices, padded))
    return groups


def halve(most: int, needed: int) -> int:
    """Return `most`, halved while `needed` rows still fit: few sizes, and few empty rows."""
    rows = most
    while rows // 2 >= max(needed, _SMALLEST_BATCH):
        rows //= 2
    return rows


def pad_prompts(
    prompts: Sequence[Sequence[int]], rows: int, length: int, pad_token: int
) -> Integers:
    """Return [rows, length] tokens, padded on the right."""
    tokens = np.full((rows, length), pad_token, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all prompts begin with in common."""
    if not prompts:
        return 0
    # In lexicographic order, the first and the last differ wherever any two do.
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    shorter = min(len(first), len(last))
    return next((i for i in range(shorter) if first[i] != last[i]), shorter)
