"""The order of tokens: models whose tokenizers differ in ids only, row by row made alike.

The ids of a tokenizer are names of rows of the embedding and of the head. If two tokenizers cut
texts in the same way, a permutation of rows is all that they differ in, and it is exact.
"""

import itertools
import json
from collections.abc import Container, Iterable, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

VOCABULARY_LEAVES = ("embed.weight", "head.weight")


class Rows(NamedTuple):
    """Rows `start` to `stop - 1` of the embedding, and of a head."""

    start: int
    stop: int


Order = tuple[Rows, ...]
"""Stored rows in the order of the common vocabulary; empty: as stored. A row of -1 is missing."""

REORDERED = ("BPE", "WordLevel", "WordPiece")
"""Kinds of tokenizers that can be put in another order: their vocabulary is a dictionary."""
_NO_ROW = 10**7  # added to the ids of tokens without a row, so that prompts with them are refused
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def runs(rows: Iterable[int]) -> Order:
    """Return rows as ranges that are as long as possible, in the same order."""
    ranges: list[Rows] = []
    for row in rows:
        if ranges and ranges[-1].stop == row:
            ranges[-1] = Rows(ranges[-1].start, row + 1)
        else:
            ranges.append(Rows(row, row + 1))
    return tuple(ranges)


def row_indices(order: Order) -> np.ndarray:
    """Return the stored row of each row; -1, where it is missing."""
    return np.concatenate([np.arange(*rows) for rows in order])


def common_ids(order: Order) -> dict[int, int]:
    """Return the id of each stored row that has one in the common vocabulary."""
    return {stored: row for row, stored in enumerate(row_indices(order).tolist()) if stored >= 0}


def assign_ids(
    tokens: Mapping[str, int],
    known: Mapping[str, int],
    shared: Container[int],
    reserved: Set[int],
) -> dict[int, int]:
    """Give the tokens of a model the ids that they have in the common vocabulary.

    A token that is not there keeps its id, or takes the next free one if another token has it.

    Args:
        tokens: Token → id, of the tokens that have a row.
        known: Token → id, of the common vocabulary so far.
        shared: Ids of the common vocabulary under which a token may have another name.
        reserved: Ids that are not free.

    Returns:
        Id → id in the common vocabulary.
    """
    ids = {row: known[token] for token, row in tokens.items() if token in known}
    taken, owned = set(ids.values()), set(known.values())
    displaced = []
    for row in sorted(set(tokens.values()) - ids.keys()):
        if row in taken or (row in owned and row not in shared):
            displaced.append(row)
        else:
            ids[row] = row
            taken.add(row)
    in_use = taken | owned | reserved
    free = (row for row in itertools.count() if row not in in_use)
    return ids | dict(zip(displaced, free, strict=False))


def order_of(ids: Mapping[int, int], rows: int) -> Order:
    """Return the order in which a model's rows have new ids; rows without a token fill the gaps.

    Args:
        ids: Id → new id, one to one.
        rows: Rows of the stored embedding.
    """
    stored = {new: old for old, new in ids.items()}
    padding = [row for row in range(rows) if row not in ids]
    stored |= {row: row for row in padding if row not in stored}
    rest = iter([row for row in padding if stored.get(row) != row])
    size = max(rows, 1 + max(stored))
    gaps = [row for row in range(size) if row not in stored]
    stored |= dict(zip(gaps, rest, strict=False))
    return runs(stored.get(row, -1) for row in range(1 + max(stored)))


def reorder_tokenizer(tokenizer: Any, order: Order) -> Any:
    """Return a tokenizer with the ids of the common vocabulary.

    Args:
        tokenizer: From `load_tokenizer`.
        order: Of the tokenizer's model; if it is empty, the tokenizer is returned as it is.
    """
    if not order:
        return tokenizer
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    known = common_ids(order)

    def new(row: int) -> int:
        return known.get(row, row + _NO_ROW)

    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    added = fields["added_tokens"]
    # An added token gets the id that the model's vocabulary has for it.
    vocabulary = fields["model"]["vocab"] | {token["content"]: token["id"] for token in added}
    fields["model"]["vocab"] = {token: new(row) for token, row in vocabulary.items()}
    for token in added:
        token["id"] = new(token["id"])
    for processor in _processors(fields["post_processor"]):
        for token in processor.get("special_tokens", {}).values():
            token["ids"] = [new(row) for row in token["ids"]]
        for name in ("sep", "cls"):
            if name in processor:
                processor[name][1] = new(processor[name][1])
    reordered = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(fields)),
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        **{name: token for name in _SPECIAL if (token := getattr(tokenizer, name)) is not None},
    )
    reordered.name_or_path = tokenizer.name_or_path
    return reordered


def _processors(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a post-processor, or those that it consists of."""
    if processor is None:
        return []
    parts = processor.get("processors", ())
    return [processor, *itertools.chain.from_iterable(map(_processors, parts))]
