"""Pack conversations of different lengths into rows of one length."""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np

from acdc_jax.training.examples import Example, PackedExamples


def pack(examples: Sequence[Example], length: int) -> PackedExamples:
    """Put every example into a row once, in few rows.

    The longest example comes first, and each goes into the fullest row that has room for it: best
    fit decreasing, which needs at most about 11/9 of the fewest rows possible.

    Args:
        examples: Conversations.
        length: Tokens of a row.

    Returns:
        The rows. The same examples give the same rows.

    Raises:
        ValueError: An example is empty, or longer than a row.

    Source: David S. Johnson, "Near-optimal bin packing algorithms" (1973).
    """
    sizes = np.array([len(example.tokens) for example in examples], np.int64)
    if ((sizes < 1) | (sizes > length)).any():
        raise ValueError(f"examples of {sizes.min()} to {sizes.max()} tokens in rows of {length}")
    row, segment, start = _best_fit(sizes, length)
    rows = int(row.max(initial=-1)) + 1

    # The place of every token in the flattened rows.
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = np.repeat(row * length + start, sizes) + within

    def scatter(values: np.ndarray, dtype: type) -> np.ndarray:
        flat: np.ndarray = np.zeros(rows * length, dtype)
        flat[places] = values
        return flat.reshape(rows, length)

    total = int(sizes.sum())
    tokens = itertools.chain.from_iterable(example.tokens for example in examples)
    answer = itertools.chain.from_iterable(example.answer for example in examples)
    return PackedExamples(
        tokens=scatter(np.fromiter(tokens, np.int32, total), np.int32),
        segments=scatter(np.repeat(segment, sizes), np.int32),
        positions=scatter(within, np.int32),
        answer=scatter(np.fromiter(answer, np.bool_, total), np.bool_),
    )


def _best_fit(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each example's row, its number there from 1, and its first place there."""
    row, segment, start = np.zeros((3, len(sizes)), np.int64)
    rows_with: dict[int, list[int]] = {}  # free places → rows
    spaces: list[int] = []  # the keys of `rows_with`, ascending
    counts: list[int] = []  # examples of each row
    for i in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[i])
        k = bisect.bisect_left(spaces, size)
        if k < len(spaces):
            space = spaces[k]
            j = rows_with[space].pop()
            if not rows_with[space]:
                del rows_with[space], spaces[k]
        else:
            space, j = length, len(counts)
            counts.append(0)
        counts[j] += 1
        row[i], segment[i], start[i] = j, counts[j], length - space
        if rest := space - size:
            if rest not in rows_with:
                bisect.insort(spaces, rest)
            rows_with.setdefault(rest, []).append(j)
    return row, segment, start
