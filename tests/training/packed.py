"""Random conversations, alone and packed into rows."""

import numpy as np

from acdc_jax.training.examples import PackedExamples

VOCABULARY = 99


def random_conversations(lengths: list[int], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return tokens and answer masks; the last third of each is an answer, and one token before."""
    rng = np.random.default_rng(seed)
    conversations = []
    for length in lengths:
        answer = np.arange(length) >= length - length // 3
        answer[length // 4] = True
        conversations.append((rng.integers(3, VOCABULARY, length, np.int32), answer))
    return conversations


def in_rows(
    conversations: list[tuple[np.ndarray, np.ndarray]], rows: list[list[int]], length: int
) -> PackedExamples:
    """Return the conversations in rows that their numbers say."""
    shape = (len(rows), length)
    packed = PackedExamples(*np.zeros((3, *shape), np.int32), np.zeros(shape, bool))
    for r, numbers in enumerate(rows):
        start = 0
        for segment, number in enumerate(numbers, 1):
            tokens, answer = conversations[number]
            place = slice(start, start := start + len(tokens))
            packed.tokens[r, place], packed.answer[r, place] = tokens, answer
            packed.segments[r, place] = segment
            packed.positions[r, place] = np.arange(len(tokens))
    return packed
