"""Draw training examples of the tiny seeds, as padded token arrays."""

import dataclasses
import random
from collections.abc import Callable

import numpy as np

from acdc_jax.quickstart import language
from acdc_jax.quickstart.language import BY_WORD, COPY, OPERATIONS, TRAIN_PAIRS, Words
from acdc_jax.quickstart.tokenizer import ANSWER, BOS, COLON, EOS, PAD, THEN, TOKEN_IDS

TOKENS_PER_EXAMPLE = 23  # doubling six symbols
_LENGTHS = (2, 6)  # inclusive
_ALPHABETS = ("letters", "letters", "digits", "few letters")  # drawn uniformly: half are letters

DrawWords = Callable[[random.Random], Words]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Instructions with their answers.

    Attributes:
        tokens: [examples, 23] int32; padded on the right.
        answer: [examples, 23] bool; True on the tokens to learn, which are the answer and the end
            of the sequence.
    """

    tokens: np.ndarray
    answer: np.ndarray


def base_words(pair_share: float) -> DrawWords:
    """Return what the base is taught: own words only.

    Args:
        pair_share: Share of training pairs; the other examples have one operation.

    Returns:
        A function that draws the words of one example.
    """
    words = [operation.word for operation in (*OPERATIONS, COPY)]

    def draw(rng: random.Random) -> Words:
        if rng.random() < pair_share:
            return rng.choice(TRAIN_PAIRS)
        return (rng.choice(words),)

    return draw


def expert_words(
    taught: Words, replay: DrawWords, replay_share: float, pair_share: float
) -> DrawWords:
    """Return what one expert is taught: its operations by their new words, alone and in pairs.

    Args:
        taught: Own words of the operations whose new words this expert learns.
        replay: What the base was taught.
        replay_share: Share of examples drawn from `replay`.
        pair_share: Share of training pairs among the other examples. At least one operation of a
            pair is the expert's; one that is not keeps its own word. An expert whose operations
            take part in no pair gets single operations instead.

    Returns:
        A function that draws the words of one example.
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
    """Draw n examples with texts of 2 to 6 symbols."""
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
    """Return the token ids of the prompt, as the chat template renders it, and of the answer."""
    prompt = [TOKEN_IDS[BOS]]
    for word in words:
        prompt += [TOKEN_IDS[word], TOKEN_IDS[THEN]]
    prompt[-1] = TOKEN_IDS[COLON]
    prompt += [TOKEN_IDS[symbol] for symbol in text]
    prompt.append(TOKEN_IDS[ANSWER])
    response = [TOKEN_IDS[symbol] for symbol in language.answer(words, text)]
    return prompt, [*response, TOKEN_IDS[EOS]]
