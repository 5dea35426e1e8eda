"""Packing: every token once, in few rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.training.examples import Example
from acdc_jax.training.packing import pack

_LENGTH = 32


@st.composite
def _examples(draw: st.DrawFn) -> list[Example]:
    """Examples whose tokens are all different, so that none can be mistaken for another."""
    sizes = draw(st.lists(st.integers(1, _LENGTH), max_size=40))
    ends = np.cumsum([0, *sizes])
    masks = draw(st.lists(st.booleans(), min_size=int(ends[-1]), max_size=int(ends[-1])))
    return [
        Example(list(range(a + 1, b + 1)), masks[a:b])
        for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]


@given(_examples())
def test_every_token_has_one_place(examples: list[Example]) -> None:
    """Each conversation is a segment of its own, whole, in order, with its mask."""
    packed = pack(examples, _LENGTH)
    assert [a.dtype for a in packed] == [np.int32, np.int32, np.int32, np.bool_]
    assert {a.shape for a in packed} == {(len(packed.tokens), _LENGTH)}
    unpacked = []
    for tokens, segments, positions, answer in zip(*packed, strict=True):
        assert segments.max() >= 1  # no empty row
        for segment in range(1, segments.max() + 1):
            (places,) = np.nonzero(segments == segment)
            assert np.array_equal(places, np.arange(places[0], places[-1] + 1))
            assert np.array_equal(positions[places], np.arange(len(places)))
            unpacked.append(Example(tokens[places].tolist(), answer[places].tolist()))
        padding = segments == 0
        for array in (tokens, positions, answer):
            assert not array[padding].any()
    assert sorted(unpacked) == sorted(examples)


@given(_examples())
def test_no_two_rows_would_fit_into_one(examples: list[Example]) -> None:
    """So fewer than half of all places are empty."""
    filled = np.sort((pack(examples, _LENGTH).segments > 0).sum(axis=1))
    assert (filled[:-1] + filled[1:] > _LENGTH).all()


def test_short_questions_fill_rows() -> None:
    """Of lengths as those of a gym's questions, with some long ones; always in the same rows."""
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(4.6, 0.7, 20_000).astype(int) + 20, 1024)
    examples = [Example([7] * size, [True] * size) for size in sizes.tolist()]
    packed = pack(examples, 1024)
    assert (packed.segments > 0).mean() > 0.95
    for first, second in zip(packed, pack(examples, 1024), strict=True):
        assert np.array_equal(first, second)


def test_nothing_to_pack() -> None:
    """No rows."""
    assert pack([], 8).tokens.shape == (0, 8)


@pytest.mark.parametrize("size", [0, 9])
def test_examples_that_fit_no_row(size: int) -> None:
    """They are refused, not cut."""
    with pytest.raises(ValueError, match="tokens in rows of 8"):
        pack([Example([1], [True]), Example([1] * size, [True] * size)], 8)
