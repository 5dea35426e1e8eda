"""What one training step reads: rows of packed conversations, and where their answers are."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from acdc_jax.prng import host_rng
from acdc_jax.training.examples import PackedExamples

_BLOCK = 128


class Batch(NamedTuple):
    """The input of one step, or of several with leading axes.

    Attributes:
        tokens: [rows, length] int32, indices into the vocabulary.
        vocabulary: [distinct tokens] int32, different ids of tokens; those beyond the embedding are
            padding. None: all ids.
        positions: [rows, length] int32; None: from 0 in every row.
        segments: [rows, length] int32, one number for each text of a row; None: one text.
        before: [answers] int32, the token before each answer token, as an index into all tokens;
            the indices differ, and those beyond all tokens are padding. None: every token.
        targets: [answers] int32, the ids of the answer tokens, which are to be predicted there.
        counts: [answers] bool, False for padding.
    """

    tokens: jax.Array
    vocabulary: jax.Array | None
    positions: jax.Array | None
    segments: jax.Array | None
    before: jax.Array | None
    targets: jax.Array
    counts: jax.Array


def predicted(examples: PackedExamples) -> np.ndarray:
    """Return which tokens count, [rows, length] bool; the first of a conversation has no prompt."""
    return examples.answer & (examples.positions > 0)


class Room(NamedTuple):
    """Sizes that hold every batch of a training, so that one program takes them all.

    Attributes:
        answers: Answer tokens of a step.
        vocabulary: Different tokens of a step.
    """

    answers: int
    vocabulary: int


def find_room(examples: PackedExamples, orders: np.ndarray) -> Room:
    """Return the room for all batches of an order of rows.

    Args:
        examples: All rows.
        orders: [steps, rows of a step] int.
    """
    answers = predicted(examples).sum(1)[orders].sum(1).max()
    vocabulary = max(len(np.unique(examples.tokens[rows])) for rows in orders)
    return Room(_round_up(int(answers)), _round_up(vocabulary))


def _round_up(size: int) -> int:
    """Return a size of whole blocks, as GPUs multiply them."""
    return -(-size // _BLOCK) * _BLOCK


def make_batch(examples: PackedExamples, rows: np.ndarray, room: Room, ids: int) -> Batch:
    """Return rows as a batch of numpy arrays, which a jitted function takes as they are.

    Args:
        examples: All rows.
        rows: [..., rows of a step] int; leading axes are those of the batch.
        room: At least that of these rows.
        ids: Rows of the embedding.
    """
    *leading, count = rows.shape
    flat = examples.tokens[rows].reshape(-1, count * examples.tokens.shape[1])
    mask = predicted(examples)[rows].reshape(flat.shape)
    steps, size = flat.shape
    tokens = np.zeros(flat.shape, np.int32)
    vocabulary = np.tile(ids + np.arange(room.vocabulary, dtype=np.int32), (steps, 1))
    before = np.tile(size + np.arange(room.answers, dtype=np.int32), (steps, 1))
    targets, counts = np.zeros(before.shape, np.int32), np.zeros(before.shape, bool)
    for i in range(steps):
        distinct, tokens[i] = np.unique(flat[i], return_inverse=True)
        vocabulary[i, : len(distinct)] = distinct
        places = np.flatnonzero(mask[i])
        n = len(places)
        before[i, :n], targets[i, :n], counts[i, :n] = places - 1, flat[i, places], True
    arrays: tuple[Any, ...] = (
        tokens.reshape(*rows.shape, -1),
        vocabulary.reshape(*leading, -1),
        examples.positions[rows],
        examples.segments[rows],
        *(x.reshape(*leading, room.answers) for x in (before, targets, counts)),
    )
    return Batch(*arrays)


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
