"""Buckets and batches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.generate.batches import batches, bucket, padded


def test_buckets() -> None:
    """Powers of two and one and a half times those."""
    sizes = sorted({bucket(n) for n in range(1, 200)})
    assert sizes == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(n <= bucket(n) < max(9, 1.5 * n) for n in range(1, 2000))


@settings(deadline=None)
@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 40))
def test_batches(lengths: list[int], batch_size: int) -> None:
    """Every prompt once, where it fits; at most one batch is not full."""
    made = list(batches([[0] * n for n in lengths], batch_size))
    assert sorted(i for indices, _, _ in made for i in indices) == list(range(len(lengths)))
    for indices, length, rows in made:
        assert max(lengths[i] for i in indices) <= length
        assert len(indices) <= rows <= batch_size
    assert all(len(indices) == rows == batch_size for indices, _, rows in made[:-1])


def test_padding_is_on_the_left() -> None:
    """And rows that fill the batch are all padding."""
    tokens, valid = padded([[5, 6], [7]], 4, 3, 9)
    assert tokens.tolist() == [[9, 9, 5, 6], [9, 9, 9, 7], [9] * 4]
    assert np.array_equal(valid, np.asarray(tokens) != 9)
