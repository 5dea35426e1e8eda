"""Similar tasks have similar embeddings, and no text is embedded twice."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.tasks.embeddings import NGrams, TaskIndex, similarities

_TEXTS = [
    "Sum two numbers between one and a hundred.",
    "Write a limerick about a lighthouse keeper.",
    "Reverse the letters of a word.",
]


class _Given:
    """Returns given embeddings, and records the calls."""

    def __init__(self, rows: dict[str, list[float]]) -> None:
        self.asked: list[str] = []
        self._rows = rows

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.asarray([self._rows[text] for text in texts])

    async def close(self) -> None:
        pass


def test_equal_texts_have_similarity_one() -> None:
    found = asyncio.run(similarities(TaskIndex(NGrams()), _TEXTS, _TEXTS))
    np.testing.assert_allclose(found.diagonal(), 1, atol=1e-9)
    assert (found[~np.eye(3, dtype=bool)] < 0.7).all()


def test_a_paraphrase_is_nearer_than_another_subject() -> None:
    near = ["Reverse all the letters of one word."]
    (found,) = asyncio.run(similarities(TaskIndex(NGrams()), near, _TEXTS))
    assert found.argmax() == 2
    assert found[2] > 0.7 > np.sort(found)[1]


def test_no_earlier_tasks() -> None:
    assert asyncio.run(similarities(TaskIndex(NGrams()), _TEXTS, [])).shape == (3, 0)


def test_dense_embeddings_are_normalised_and_cached() -> None:
    given = _Given({"a": [3.0, 0.0], "b": [0.0, 0.1], "c": [5.0, 5.0]})
    index = TaskIndex(given)
    first = asyncio.run(similarities(index, ["c"], ["a", "b"]))
    np.testing.assert_allclose(first, [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(asyncio.run(similarities(index, ["a"], ["b", "a"])), [[0, 1]])
    assert given.asked == ["c", "a", "b"]


@pytest.mark.parametrize("row", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_zero_and_non_finite_embeddings_are_errors(row: list[float]) -> None:
    with pytest.raises(AcdcError, match="zero or not finite"):
        asyncio.run(similarities(TaskIndex(_Given({"a": row, "b": [1.0, 0.0]})), ["a"], ["b"]))
