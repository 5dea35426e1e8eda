"""Which earlier tasks is a draft close to? Cosine similarity of embeddings.

Every task there ever was is compared, not only the active ones, so that an idea that left the pool
is not proposed again (paper §3.3).
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from acdc_jax.errors import AcdcError

Rows: TypeAlias = Any  # np.ndarray or scipy.sparse.csr_matrix, which has no types


@functools.cache
def hashed_ngrams() -> Any:
    """Character n-grams within words: robust to inflection, blind to order beyond a word's border.

    scikit-learn takes a second to import, which only those wait who come here.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**18)


class Embedder(Protocol):
    """Turns texts into directions."""

    async def embed(self, texts: Sequence[str]) -> Rows:
        """Embeddings [n, d], in order; their lengths do not matter.

        Raises:
            AcdcError: there are none. Never zeros instead.
        """

    async def close(self) -> None:
        """Gives connections back."""


class NGrams:
    """Hashed character n-grams, [n, 2¹⁸] sparse: no model, no network."""

    async def embed(self, texts: Sequence[str]) -> Rows:
        """See `Embedder.embed`."""
        return hashed_ngrams().transform(texts)

    async def close(self) -> None:
        """See `Embedder.close`."""


class TaskIndex:
    """Unit embeddings of an embedder, by text: each text is embedded once per process."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._rows: dict[str, Rows] = {}

    async def rows(self, texts: Sequence[str]) -> Rows:
        """Embeddings [n, d] of unit length, in order.

        Raises:
            AcdcError: an embedding is missing, not finite, or zero.
        """
        unknown = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if unknown:
            new = _unit(await self._embedder.embed(unknown))
            self._rows |= {text: new[i : i + 1] for i, text in enumerate(unknown)}
        rows = [self._rows[text] for text in texts]
        sparse = scipy.sparse.issparse(rows[0])
        return scipy.sparse.vstack(rows, "csr") if sparse else np.concatenate(rows)

    async def close(self) -> None:
        """See `Embedder.close`."""
        await self._embedder.close()


async def similarities(
    index: TaskIndex, texts: Sequence[str], earlier: Sequence[str]
) -> np.ndarray:
    """Cosine similarities [len(texts), len(earlier)], float64 in [-1, 1]."""
    if not texts or not earlier:
        return np.zeros((len(texts), len(earlier)))
    rows = await index.rows([*texts, *earlier])
    product = rows[: len(texts)] @ rows[len(texts) :].T
    return product.toarray() if scipy.sparse.issparse(product) else np.asarray(product)


def _unit(rows: Rows) -> Rows:
    """The rows at unit length; refuses those that have none."""
    sparse = scipy.sparse.issparse(rows)
    lengths = scipy.sparse.linalg.norm(rows, axis=1) if sparse else np.linalg.norm(rows, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise AcdcError("an embedding is zero or not finite; use another --embedding_model")
    return rows if sparse else rows / lengths[:, None]  # HashingVectorizer has divided already
