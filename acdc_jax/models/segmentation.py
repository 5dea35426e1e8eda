"""How a tokenizer cuts texts into tokens, whatever ids these have."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Segmentation:
    """All that decides how texts are cut into tokens, and put together.

    Attributes:
        kind: Kind of the tokenizer's model, such as "BPE", or its class if that is not known.
        pieces: Tokens that the model can begin with, or, unless it is BPE, end with.
        merges: Merges of BPE, in their order.
        added: Added token → how it is looked for.
        rest: Everything else, such as the normaliser.
    """

    kind: str
    pieces: frozenset[str]
    merges: tuple[tuple[str, ...], ...]
    added: Mapping[str, Any]
    rest: Mapping[str, Any]


def segmentation(tokenizer: Any) -> Segmentation:
    """Return how a tokenizer from `load_tokenizer` cuts texts."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return Segmentation(type(tokenizer).__name__, frozenset(), (), {}, {})
    fields = json.loads(backend.to_str())
    model = fields["model"]
    added = {token.pop("content"): token for token in fields["added_tokens"]}
    for token in added.values():
        del token["id"]
    vocabulary = model.pop("vocab")
    if isinstance(vocabulary, list):  # Unigram, with scores
        vocabulary = {json.dumps(piece) for piece in vocabulary}
    merges = model.pop("merges", ())
    merges = tuple(tuple(m.split(" ") if isinstance(m, str) else m) for m in merges)
    options = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
    by_merges_only = model["type"] == "BPE" and not any(map(model.get, options))
    pieces = frozenset(
        piece
        for piece in vocabulary
        if piece not in added and (not by_merges_only or len(piece) == 1 or _BYTE.fullmatch(piece))
    )
    names = ("normalizer", "pre_tokenizer", "decoder")
    rest = {f"model's {name}": value for name, value in model.items()}
    rest |= {name: fields[name] for name in names}
    return Segmentation(model["type"], pieces, merges, added, rest)


def difference(ours: Segmentation, theirs: Segmentation, name: str) -> str:
    """Return in words the first thing in which a tokenizer differs; "" if there is none.

    Tokens that only one of them added are no difference.

    Args:
        ours: The tokenizer.
        theirs: The one that it is compared with.
        name: The name of that one.
    """
    if ours.kind != theirs.kind:
        return f"it is of kind {ours.kind}, but {name} of kind {theirs.kind}"
    only_ours, only_theirs = (
        sorted(ours.pieces - theirs.pieces),
        sorted(theirs.pieces - ours.pieces),
    )
    if only_ours and only_theirs:
        return f"it has token {only_ours[0]!r}, and {name} has {only_theirs[0]!r} instead"
    if only_ours or only_theirs:
        lacking = name if only_ours else "it"
        return f"{lacking} lacks token {[*only_ours, *only_theirs][0]!r}"
    for i, (a, b) in enumerate(zip(ours.merges, theirs.merges, strict=False)):
        if a != b:
            return f"its merge {i} is {' '.join(a)!r}, but {' '.join(b)!r} in {name}"
    if len(ours.merges) != len(theirs.merges):
        return f"it has {len(ours.merges)} merges, but {name} has {len(theirs.merges)}"
    for token in sorted(ours.added.keys() & theirs.added.keys()):
        if ours.added[token] != theirs.added[token]:
            return f"the settings of its added token {token!r} are not those in {name}"
    for key in sorted(ours.rest.keys() | theirs.rest.keys()):
        if ours.rest.get(key) != theirs.rest.get(key):
            return f"its {key} is not that of {name}"
    return ""
