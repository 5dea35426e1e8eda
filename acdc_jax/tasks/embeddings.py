"""Embeddings of task texts, and their cosine similarities.

A draft is compared with every earlier task, not only the active ones, so that an idea that left
the pool is not proposed again (paper §3.3).
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from acdc_jax.errors import AcdcError

_HARMLESS_TEXT = "Add two numbers."

Rows: TypeAlias = Any  # np.ndarray or scipy.sparse.csr_matrix, which has no type stubs


@functools.cache
def hashed_ngrams() -> Any:
    """Return the vectorizer of character n-grams within words.

    It is robust to inflection and ignores the order of words.
    """
    # scikit-learn takes a second to import.
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**18)


class Embedder(Protocol):
    """Embeds texts as vectors; only their directions matter."""

    async def embed(self, texts: Sequence[str]) -> Rows:
        """Return the embeddings [n, d], in the order of `texts`.

        Raises:
            AcdcError: Embedding failed.
        """

    async def close(self) -> None:
        """Close the connections and free the resources."""


class NGrams:
    """Embeds texts as hashed character n-grams, [n, 2¹⁸] sparse, without a model."""

    async def embed(self, texts: Sequence[str]) -> Rows:
        """See `Embedder.embed`."""
        return hashed_ngrams().transform(texts)

    async def close(self) -> None:
        """See `Embedder.close`."""


class TaskIndex:
    """Caches unit embeddings by text: a process embeds each text once."""

    def __init__(self, embedder: Embedder) -> None:
        """Embed with `embedder`."""
        self._embedder = embedder
        self._rows: dict[str, Rows] = {}

    async def embed(self, texts: Sequence[str]) -> Rows:
        """Return embeddings [n, d] of unit length, in the order of `texts`.

        Raises:
            AcdcError: Embedding failed, or an embedding is zero or not finite.
        """
        unknown = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if unknown:
            new = _unit(await self._embedder.embed(unknown))
            self._rows |= {text: new[i : i + 1] for i, text in enumerate(unknown)}
        rows = [self._rows[text] for text in texts]
        sparse = scipy.sparse.issparse(rows[0])
        return scipy.sparse.vstack(rows, "csr") if sparse else np.concatenate(rows)

    async def errors(self, texts: Sequence[str]) -> dict[str, AcdcError]:
        """Return text → error of the texts that cannot be embedded, e.g. that are too long.

        Raises:
            AcdcError: The embedder is gone, or can embed none of several texts.
        """
        try:
            await self.embed(texts)
        except AcdcError:
            await self._embedder.embed([_HARMLESS_TEXT])
        else:
            return {}
        errors: dict[str, AcdcError] = {}
        for text in dict.fromkeys(texts):
            try:
                await self.embed([text])
            except AcdcError as error:
                errors[text] = error
        if 1 < len(errors) == len(set(texts)):
            raise errors[texts[0]]
        return errors

    async def close(self) -> None:
        """See `Embedder.close`."""
        await self._embedder.close()


async def similarities(
    index: TaskIndex, texts: Sequence[str], earlier: Sequence[str]
) -> np.ndarray:
    """Return cosine similarities [texts, earlier], float64 in [-1, 1]."""
    if not texts or not earlier:
        return np.zeros((len(texts), len(earlier)))
    rows = await index.embed([*texts, *earlier])
    product = rows[: len(texts)] @ rows[len(texts) :].T
    return product.toarray() if scipy.sparse.issparse(product) else np.asarray(product)


def _unit(rows: Rows) -> Rows:
    """Scale the rows to unit length.

    Raises:
        AcdcError: A row is zero or not finite.
    """
    sparse = scipy.sparse.issparse(rows)
    lengths = scipy.sparse.linalg.norm(rows, axis=1) if sparse else np.linalg.norm(rows, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise AcdcError("an embedding is zero or not finite; use another embedding model")
    return rows if sparse else rows / lengths[:, None]  # HashingVectorizer normalises
