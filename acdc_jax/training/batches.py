"""What one training step reads: rows of packed conversations, and where their answers are."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from acdc_jax.models.attention import Segments
from acdc_jax.prng import host_rng
from acdc_jax.training.examples import PackedExamples


class Batch(NamedTuple):
    """The input of one step, or of several with leading axes.

    Attributes:
        tokens: [rows, length] int32.
        positions: [rows, length] int32.
        segments: What is packed into each row; None: one text.
        before: [answers] int32, the token before each answer token, as an index into all tokens.
        targets: [answers] int32, the answer tokens, which the model learns to predict there.
        counts: [answers] bool, False for padding.
    """

    tokens: jax.Array
    positions: jax.Array
    segments: Segments | None
    before: jax.Array
    targets: jax.Array
    counts: jax.Array


def predicted(examples: PackedExamples) -> np.ndarray:
    """Return which tokens count, [rows, length] bool; the first of a conversation has no prompt."""
    return examples.answer & (examples.positions > 0)


def most_segments(examples: PackedExamples) -> int:
    """Return the largest number of segments of a row, padding included; at least 2."""
    return max(2, int(examples.segments.max(initial=0)) + 1)


def make_batch(
    examples: PackedExamples, rows: np.ndarray, *, answers: int, segments: int | None
) -> Batch:
    """Return rows as a batch of numpy arrays, which a jitted function takes as they are.

    Args:
        examples: All rows.
        rows: [..., rows of a step] int; leading axes are those of the batch.
        answers: Room for answer tokens, at least as many as any step has.
        segments: Room for segments, at least `most_segments`; None: every row is one text.
    """
    *leading, count = rows.shape
    length = examples.tokens.shape[1]
    tokens = examples.tokens[rows]
    flat = tokens.reshape(-1, count * length)
    mask = predicted(examples)[rows].reshape(flat.shape)
    before, targets = np.zeros((2, len(flat), answers), np.int32)
    counts = np.zeros((len(flat), answers), bool)
    for i, places in enumerate(map(np.flatnonzero, mask)):
        n = len(places)
        before[i, :n], targets[i, :n], counts[i, :n] = places - 1, flat[i, places], True
    packed = None if segments is None else find_segments(examples.segments[rows], segments)
    arrays: tuple[Any, ...] = (tokens, examples.positions[rows], packed)
    answer_arrays: list[Any] = [x.reshape(*leading, answers) for x in (before, targets, counts)]
    return Batch(*arrays, *answer_arrays)


def find_segments(ids: np.ndarray, most: int) -> Segments:
    """Return the segments of rows, as numpy arrays.

    Args:
        ids: [..., length] int32; neighbours in a segment have the same number.
        most: Room for segments, at least 2.
    """
    flat = ids.reshape(-1, ids.shape[-1])
    starts = np.full((len(flat), most + 1), -1, np.int32)
    lengths = np.full((len(flat), most), -1, np.int32)
    for i, row in enumerate(flat):
        first = np.flatnonzero(np.diff(row, prepend=-1))
        starts[i, : len(first)] = first
        lengths[i, : len(first)] = np.diff(first, append=len(row))
    shape = ids.shape[:-1]
    arrays: Any = (ids, starts.reshape(*shape, most + 1), lengths.reshape(*shape, most))
    return Segments(*arrays)


def row_order(key: jax.Array, rows: int) -> Iterator[int]:
    """Yield the numbers of rows without end: all in a random order, then all in another.

    Args:
        key: Typed PRNG key; one key is folded out of it for each of these epochs.
        rows: Number of rows.
    """
    epoch = 0
    while True:
        yield from host_rng(jax.random.fold_in(key, epoch)).permutation(rows).tolist()
        epoch += 1
