"""Prompts into batches of few shapes: every new shape is compiled for."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

_SMALLEST_BUCKET = 8
_SMALLEST_BATCH = 8


def bucket(length: int) -> int:
    """Returns the padded length of a prompt: 8, 12, 16, 24, 32, 48, …"""
    size = _SMALLEST_BUCKET
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def batches(
    prompts: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[list[int], int, int]]:
    """Yields indices, padded length and number of rows of every batch."""
    buckets: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        buckets.setdefault(bucket(len(prompt)), []).append(i)
    indices: list[int] = []
    length = 0
    for length, members in sorted(buckets.items()):
        # What does not fill a batch goes along with longer prompts: a few columns of padding
        # cost less than a batch that is half empty, and than compiling for its size.
        indices += members
        while len(indices) >= batch_size:
            yield indices[:batch_size], length, batch_size
            indices = indices[batch_size:]
    if indices:
        rows = batch_size
        while rows // 2 >= max(len(indices), _SMALLEST_BATCH):
            rows //= 2
        yield indices, length, rows


def padded(
    prompts: list[Sequence[int]], length: int, rows: int, pad_token: int
) -> tuple[jax.Array, jax.Array]:
    """Returns [rows, length] tokens, padded on the left, and which of them are real."""
    tokens = np.full((rows, length), pad_token, np.int32)
    valid = np.zeros((rows, length), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        valid[row, length - len(prompt) :] = True
    return jax.device_put(tokens), jax.device_put(valid)
