"""Training examples of the tiny seeds, as padded token arrays."""

import dataclasses
import random
from collections.abc import Callable

import numpy as np

from acdc_jax.quickstart import language
from acdc_jax.quickstart.language import BY_WORD, COPY, OPERATIONS, TRAIN_PAIRS, Words
from acdc_jax.quickstart.tokenizer import ANSWER, BOS, COLON, EOS, PAD, THEN, TOKEN_IDS

TOKENS_PER_EXAMPLE = 23  # doubling six symbols
_LENGTHS = (2, 6)  # inclusive
_ALPHABETS = ("letters", "letters", "digits", "few letters")  # drawn uniformly

DrawWords = Callable[[random.Random], Words]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Instructions with their answers.

    Attributes:
        tokens: int32 [n, 23], padded on the right.
        answer: bool [n, 23], True on the answer and the end of the sequence: what is learnt.
    """

    tokens: np.ndarray
    answer: np.ndarray


def base_words(pair_share: float) -> DrawWords:
    """Own words only: a training pair with probability `pair_share`, else one operation."""
    words = [operation.word for operation in (*OPERATIONS, COPY)]

    def draw(rng: random.Random) -> Words:
        if rng.random() < pair_share:
            return rng.choice(TRAIN_PAIRS)
        return (rng.choice(words),)

    return draw


def expert_words(
    taught: Words, replay: DrawWords, replay_share: float, pair_share: float
) -> DrawWords:
    """What one expert is taught: its operations by their new words, alone and in pairs.

    Args:
        taught: own words of the operations whose new words this expert learns.
        replay: what the base was taught.
        replay_share: share of examples drawn from `replay`.
        pair_share: share of the others that are training pairs with an operation of this expert;
            an operation that is not its own keeps its own word. An expert without pairs (none of
            its operations composes) gets single operations instead.
    """
    new = {word: BY_WORD[word].new_word for word in taught}
    pairs = [
        tuple(new.get(word, word) for word in pair) for pair in TRAIN_PAIRS if set(pair) & set(new)
    ]
    singles = [(word,) for word in new.values()]

    def draw(rng: random.Random) -> Words:
        if rng.random() < replay_share:
            return replay(rng)
        return rng.choice(pairs if pairs and rng.random() < pair_share else singles)

    return draw


def draw_examples(draw: DrawWords, n: int, rng: random.Random) -> Examples:
    """Draws n examples with texts of 2 to 6 symbols, half of them over all letters."""
    tokens = np.full((n, TOKENS_PER_EXAMPLE), TOKEN_IDS[PAD], np.int32)
    answer = np.zeros((n, TOKENS_PER_EXAMPLE), bool)
    for row in range(n):
        words = draw(rng)
        text = language.draw_text(words, rng.randint(*_LENGTHS), rng.choice(_ALPHABETS), rng)
        prompt, response = encode(words, text)
        end = len(prompt) + len(response)
        tokens[row, :end] = prompt + response
        answer[row, len(prompt) : end] = True
    return Examples(tokens, answer)


def encode(words: Words, text: str) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, as the chat template renders it, and of the right answer."""
    prompt = [TOKEN_IDS[BOS]]
    for word in words:
        prompt += [TOKEN_IDS[word], TOKEN_IDS[THEN]]
    prompt[-1] = TOKEN_IDS[COLON]
    prompt += [TOKEN_IDS[symbol] for symbol in text]
    prompt.append(TOKEN_IDS[ANSWER])
    response = [TOKEN_IDS[symbol] for symbol in language.answer(words, text)]
    return prompt, [*response, TOKEN_IDS[EOS]]
