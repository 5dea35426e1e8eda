"""Training examples: their mixture, their mask, their answers."""

import random

import numpy as np

from acdc_jax.quickstart.examples import base_words, draw_examples, encode, expert_words
from acdc_jax.quickstart.language import BY_WORD, EXPERTS, TRAIN_PAIRS
from acdc_jax.quickstart.tokenizer import FIRST_NEW_ROW, TOKEN_IDS, TOKENS


def test_the_base_sees_own_words_only() -> None:
    examples = draw_examples(base_words(0.4), 4000, random.Random(0))
    assert examples.tokens.max() < FIRST_NEW_ROW
    pairs = (examples.tokens == TOKEN_IDS[" then "]).any(1)
    assert abs(pairs.mean() - 0.4) < 0.03


def test_experts_see_their_new_words_and_the_rest_in_own_words() -> None:
    draw = expert_words(EXPERTS[0], base_words(0.4), 0.2, 0.4)
    rng = random.Random(0)
    drawn = [draw(rng) for _ in range(6000)]
    new = {BY_WORD[word].new_word for word in EXPERTS[0]}
    kinds = [(len(words), bool(set(words) & new)) for words in drawn]
    for kind, share in (((1, True), 0.48), ((2, True), 0.32), ((1, False), 0.12)):
        assert abs(kinds.count(kind) / len(kinds) - share) < 0.03, kind
    for words in drawn:
        assert not any(BY_WORD[w].new_word == w and w not in new for w in words)
        if len(words) == 2:
            own = tuple(BY_WORD[word].word for word in words)
            assert own in TRAIN_PAIRS
            if set(words) & new:  # then every word of this expert is the new one
                assert not set(words) & set(EXPERTS[0])


def test_an_expert_without_pairs_gets_single_operations() -> None:
    draw = expert_words(("len", "add"), base_words(0.4), 0.0, 1.0)
    rng = random.Random(0)
    assert {draw(rng) for _ in range(50)} == {("count",), ("total",)}


def test_the_mask_covers_the_answer_and_the_end() -> None:
    examples = draw_examples(base_words(0.4), 500, random.Random(1))
    for tokens, answer in zip(examples.tokens, examples.answer, strict=True):
        row = [TOKENS[token] for token in tokens]
        start, end = row.index("\nAnswer: ") + 1, row.index("<eos>")
        assert answer.nonzero()[0].tolist() == list(range(start, end + 1))
        assert set(row[end + 1 :]) <= {"<pad>"}
        words = tuple(token for token in row[1 : row.index(": ")] if token != " then ")
        text = "".join(row[row.index(": ") + 1 : start - 1])
        prompt, response = encode(words, text)
        assert tokens[: end + 1].tolist() == prompt + response


def test_the_same_seed_gives_the_same_examples() -> None:
    first, second = (draw_examples(base_words(0.4), 50, random.Random(5)) for _ in range(2))
    np.testing.assert_array_equal(first.tokens, second.tokens)
