"""The skill language: what its words mean, and that its splits never overlap."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.quickstart import language
from acdc_jax.quickstart.language import (
    BY_WORD,
    EXPERTS,
    OPERATIONS,
    SEED_SPECS,
    TRAIN_PAIRS,
    Spec,
    split,
)

SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize(
    ("word", "text", "expected"),
    [
        ("mirror", "abcd", "dcba"),
        ("cycle", "abcd", "bcda"),
        ("rewind", "abcd", "dabc"),
        ("trade", "abcde", "badce"),
        ("behead", "abcd", "bcd"),
        ("curtail", "abcd", "abc"),
        ("double", "a1b", "aa11bb"),
        ("shout", "ab1", "AB1"),
        ("advance", "azAZ09*", "baBA10*"),
        ("retreat", "azAZ09*", "zyZY98*"),
        ("leap", "ayzAYZ089*", "cabCAB201*"),
        ("invert", "abzAZ092*", "zyaZA907*"),
        ("censor", "abeEB1290", "*b**B*2*0"),
        ("arrange", "b*a1B", "*1Bab"),
        ("descend", "b*a1B", "baB1*"),
        ("highest", "3719", "9"),
        ("lowest", "3719", "1"),
        ("head", "xyz", "x"),
        ("final", "xyz", "z"),
        ("count", "xyzxyz", "6"),
        ("total", "97+5", "102"),
        ("deduct", "12-7", "5"),
        ("copy", "ab1", "ab1"),
    ],
)
def test_every_operation(word: str, text: str, expected: str) -> None:
    assert language.answer((word,), text) == expected
    assert language.answer((BY_WORD[word].word,), text) == expected


def test_operations_are_applied_from_left_to_right() -> None:
    assert language.answer(("behead", "mirror", "shout"), "abcd") == "DCB"
    assert Spec(("mirror", "shout"), 4, "letters").instruction("abcd") == "mirror then shout: abcd"


def test_words_are_22_own_and_22_new_ones_without_overlap() -> None:
    own, new = {o.word for o in OPERATIONS}, {o.new_word for o in OPERATIONS}
    assert len(own) == len(new) == 22
    assert not own & new
    assert {word for expert in EXPERTS for word in expert} == own


@given(SEEDS)
def test_splits_do_not_overlap(seed: int) -> None:
    parts = split(seed)
    trained = {tuple(BY_WORD[w].new_word for w in pair) for pair in TRAIN_PAIRS}
    pool = set(parts.pool_pairs)
    assert not pool & parts.held_out_pairs
    assert not trained & (pool | parts.held_out_pairs)
    assert abs(len(pool) - len(parts.held_out_pairs)) <= 1
    assert not set(parts.held_out) & {*parts.pool_singles, *parts.pool_pair_specs, *SEED_SPECS}
    assert all(parts.is_held_out(spec) for spec in parts.held_out)
    assert not any(map(parts.is_held_out, (*parts.pool_singles, *parts.pool_pair_specs)))
    lengths = [len(spec.words) for spec in parts.held_out]
    assert (lengths.count(1), lengths.count(2), len(set(parts.held_out))) == (60, 140, 200)


@given(SEEDS)
def test_no_expert_knows_both_words_of_a_pair(seed: int) -> None:
    parts = split(seed)
    for pair in {*parts.pool_pairs, *parts.held_out_pairs}:
        own = {BY_WORD[word].word for word in pair}
        assert not any(own <= set(expert) for expert in EXPERTS)


def test_the_split_follows_the_seed_alone() -> None:
    assert split(3) == split(3)
    assert split(3) != split(4)


def test_a_longer_composition_around_a_held_out_pair_is_held_out() -> None:
    parts = split(0)
    pair = next(iter(parts.held_out_pairs))
    assert parts.is_held_out(Spec((*pair, "shout"), 4, "letters"))


@given(st.sampled_from(split(0).held_out + split(0).pool_pair_specs), SEEDS)
def test_texts_fit_their_spec(spec: Spec, seed: int) -> None:
    texts = language.instances(spec, 3, seed)
    assert texts == language.instances(spec, 3, seed)
    for text in texts:
        assert language.answer(spec.words, text)
        if BY_WORD[spec.words[0]].draw is None:
            assert len(text) == spec.length
            assert set(text) <= set(language.ALPHABETS[spec.alphabet])


def test_arithmetic_stays_in_range() -> None:
    rng = random.Random(0)
    for length, limit in ((2, 10), (3, 10), (4, 100), (6, 100)):
        for _ in range(200):
            left, right = language.draw_text(("deduct",), length, "letters", rng).split("-")
            assert 0 <= int(right) <= int(left) < limit
            left, right = language.draw_text(("total",), length, "letters", rng).split("+")
            assert 0 <= int(left) < limit
            assert 0 <= int(right) < 10
