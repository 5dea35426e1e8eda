"""Buckets and groups."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.inference.buckets import bucket, common_prefix, group_prompts, halve, pad_prompts


def test_buckets() -> None:
    """Powers of two and one and a half times those."""
    sizes = sorted({bucket(n) for n in range(1, 200)})
    assert sizes == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(n <= bucket(n) < max(9, 1.5 * n) for n in range(1, 2000))
    assert sorted({bucket(n, coarse=True) for n in range(1, 600)}) == [64, 128, 256, 512, 1024]
    assert all(n <= bucket(n, coarse=True) < max(65, 2 * n) for n in range(1, 2000))


@settings(deadline=None)
@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 40), st.booleans())
def test_groups(lengths: list[int], size: int, mixed: bool) -> None:
    """Every prompt once, where it fits; short ones first."""
    made = group_prompts(lengths, lambda padded: max(1, size * 8 // padded), mixed=mixed)
    assert sorted(i for indices, _ in made for i in indices) == list(range(len(lengths)))
    assert [length for _, length in made] == sorted(length for _, length in made)
    for indices, length in made:
        assert max(lengths[i] for i in indices) <= length
        assert len(indices) <= max(1, size * 8 // length)
        if not mixed:
            assert {bucket(lengths[i]) for i in indices} == {length}
    if mixed:
        assert all(len(indices) == max(1, size * 8 // length) for indices, length in made[:-1])


def test_halve() -> None:
    """Few sizes, and none much too large."""
    assert [halve(288, n) for n in (288, 145, 144, 72, 5, 1)] == [288, 288, 144, 72, 9, 9]
    assert halve(4, 1) == 4


def test_padding_is_on_the_right() -> None:
    """And rows that fill the group are all padding."""
    assert pad_prompts([[5, 6], [7]], 3, 4, 9).tolist() == [[5, 6, 9, 9], [7, 9, 9, 9], [9] * 4]


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_common_prefix(prompts: list[list[int]]) -> None:
    """As long as all agree."""
    n = common_prefix(prompts)
    assert len({tuple(prompt[:n]) for prompt in prompts}) == 1
    longer = {tuple(prompt[: n + 1]) for prompt in prompts}
    assert len(longer) > 1 or n == min(map(len, prompts))
    assert common_prefix([]) == 0


def test_padded_dtype() -> None:
    """As jitted functions take it."""
    assert pad_prompts([[1]], 1, 8, 0).dtype == np.int32
