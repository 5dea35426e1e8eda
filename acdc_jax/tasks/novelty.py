"""Is a draft new? Cosine similarity of hashed character n-grams with every task there ever was.

The index never forgets, so that an idea that left the pool is not proposed again (paper §3.3).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import HashingVectorizer

# Character n-grams within words: robust to inflection, blind to word order beyond a word's border.
_VECTORIZER = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**18)


@dataclasses.dataclass(frozen=True)
class NoveltyIndex:
    """Embeddings of tasks in the order of their ids.

    Attributes:
        ids: task ids, [n].
        rows: sparse float64 [n, 2¹⁸], each row of unit length.
    """

    ids: tuple[str, ...]
    rows: scipy.sparse.csr_matrix


def empty_index() -> NoveltyIndex:
    """An index that has seen nothing."""
    return NoveltyIndex((), scipy.sparse.csr_matrix((0, _VECTORIZER.n_features)))


def add(index: NoveltyIndex, ids: Sequence[str], texts: Sequence[str]) -> NoveltyIndex:
    """The index with the embeddings of `texts` appended under `ids`."""
    if not ids:
        return index
    rows = scipy.sparse.vstack([index.rows, _VECTORIZER.transform(texts)], format="csr")
    return NoveltyIndex((*index.ids, *ids), rows)


def nearest(index: NoveltyIndex, text: str, k: int) -> list[tuple[str, float]]:
    """The k most similar earlier tasks.

    Returns:
        (task id, cosine similarity in [-1, 1]), most similar first, ties by id order.
    """
    if not index.ids:
        return []
    similarity = (index.rows @ _VECTORIZER.transform([text]).T).toarray()[:, 0]
    order = np.argsort(-similarity, kind="stable")[:k]
    return [(index.ids[i], float(similarity[i])) for i in order]
