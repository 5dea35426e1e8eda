"""The vocabulary that models have in common: which row of the embedding is which token's.

Tokens have the ids of the first seed. Added tokens, another order, and rows that no token uses are
reconciled exactly; other differences raise an error that names the token and both models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.segmentation import Segmentation, difference
from acdc_jax.models.token_order import REORDERED, Order, assign_ids, order_of, row_indices


@dataclass(frozen=True)
class ModelDescription:
    """A model that is not loaded yet.

    Attributes:
        name: The folder or Hub id, for messages.
        config: Its configuration, as stored.
        vocabulary: Token → id.
        segmentation: Returns how its tokenizer cuts texts; called only if vocabularies differ.
        missing: Rows between others that it lacks.
    """

    name: str
    config: ModelConfig
    vocabulary: Mapping[str, int]
    segmentation: Callable[[], Segmentation]
    missing: frozenset[int] = frozenset()

    @property
    def rows(self) -> int:
        """Rows of the embedding, and of a head."""
        return self.config.vocab_size

    def has(self, row: int) -> bool:
        """Return whether there is such a row."""
        return row < self.rows and row not in self.missing


def check_size(model: ModelDescription) -> None:
    """Raise if a model has far more or far fewer rows than its tokenizer has tokens.

    Padding adds a few per cent of rows; added tokens without a row are few.
    """
    tokens = len(model.vocabulary)
    if not model.rows / 4 < tokens < model.rows * 4:
        raise AcdcError(
            f"{model.name}: the tokenizer has {tokens} tokens, but the embedding has {model.rows} "
            "rows: they belong to different models; copy the tokenizer's files from the model that "
            "this one was tuned from"
        )


def align_tokens(
    base: ModelDescription, seeds: Sequence[ModelDescription]
) -> tuple[tuple[ModelDescription, ...], tuple[Order, ...], list[str]]:
    """Put the tokens of all models into the order of the first seed, where ids differ.

    Returns:
        The base and the seeds in that order, the order of the stored rows of each, and notes.

    Raises:
        AcdcError: A token has another id, and the tokenizers do not cut texts in the same way.
    """
    models, orders, notes = [base, *seeds], [Order()] * (1 + len(seeds)), []
    first, known, owners = seeds[0], dict[str, int](), dict[int, str]()
    without_row = {
        row for model in models for row in model.vocabulary.values() if row >= model.rows
    }
    for number in (1, 0, *range(2, len(models))):
        model = models[number]
        if number != 1 and model.vocabulary is first.vocabulary and model.rows == first.rows:
            continue  # the same files
        tokens = {token: row for token, row in model.vocabulary.items() if row < model.rows}
        # The base may have other names for rows; a seed, only for those of the base.
        shared = set((first if number == 0 else models[0]).vocabulary.values())
        ids = assign_ids(tokens, known, shared, without_row)
        moved = [token for token, row in tokens.items() if ids[row] != row]
        if moved:
            token = moved[0]
            row = tokens[token]
            other = (
                f"token {token!r} has id {row}, but {known[token]}"
                if token in known
                else f"id {row} is token {token!r}, but {_token(known, row)!r}"
            )
            reason = difference(model.segmentation(), first.segmentation(), first.name)
            if not reason and (kind := first.segmentation().kind) not in REORDERED:
                reason = f"tokens of kind {kind} cannot be put in another order"
            if reason:
                raise AcdcError(
                    f"{model.name}: {other} in {owners[known.get(token, row)]}, and their "
                    f"tokenizers cannot be reconciled: {reason}; leave one of the models out"
                )
            notes.append(
                f"{model.name}: {other} in {owners[known.get(token, row)]}; rows are put in the "
                f"order of {first.name}: {len(moved)} tokens"
            )
            orders[number] = order_of(ids, model.rows)
            model = models[number] = _in_order(model, ids, orders[number])
        elif reason := difference(model.segmentation(), first.segmentation(), first.name):
            notes.append(
                f"{model.name}: its tokenizer cuts texts in another way than that of {first.name}, "
                f"which members have: {reason}"
            )
        for token, row in model.vocabulary.items():
            if row < model.rows:
                known.setdefault(token, row)
                owners.setdefault(row, model.name)
    return tuple(models), tuple(orders), notes


def added_tokens(base: ModelDescription, seeds: Sequence[ModelDescription]) -> dict[int, int]:
    """Return the id of each token that the base has no row for → number of the first seed with one.

    A row of the base that its tokenizer has no token for is padding.
    """
    of_base = {row for row in base.vocabulary.values() if row < base.rows}
    sources: dict[int, int] = {}
    for number, seed in enumerate(seeds):
        for row in seed.vocabulary.values():
            if row < seed.rows and row not in of_base:
                sources.setdefault(row, number)
    return sources


def first_with_row(row: int, seeds: Sequence[ModelDescription]) -> int:
    """Return the number of the first seed that has a row.

    Raises:
        AcdcError: None has.
    """
    for number, seed in enumerate(seeds):
        if seed.has(row):
            return number
    raise AcdcError(f"{seeds[0].name}: no model has a row for id {row}; add rows to the embedding")


def check_vocabularies(models: Sequence[ModelDescription], size: int) -> list[str]:
    """Raise if models disagree on the row of a token; return notes on harmless differences.

    Args:
        models: The base, then the seeds.
        size: Rows of the common embedding.
    """
    numbers: dict[str, tuple[int, ModelDescription]] = {}
    owners: dict[int, ModelDescription] = {}  # row → the first model that has a token for it
    notes = []
    for model in models:
        # Gemma 3's text models have no row for images, Llama 2's fine-tunes often none for [PAD].
        without = [token for token, row in model.vocabulary.items() if row >= size]
        if without:
            notes.append(
                f"{model.name}: tokens without a row in any model: {len(without)}, such as "
                f"{without[0]!r} with id {model.vocabulary[without[0]]}; do not use them in prompts"
            )
        for token, row in model.vocabulary.items():
            if row >= size:
                continue
            first_row, where = numbers.setdefault(token, (row, model))
            if first_row != row:
                raise AcdcError(
                    f"{model.name}: token {token!r} has id {row}, but {first_row} in "
                    f"{where.name}; their embeddings cannot be merged; leave one of the models out"
                )
            if row < model.rows:
                owners.setdefault(row, model)
    for model in models:
        renamed = []
        for token, row in model.vocabulary.items():
            owner = owners.get(row)
            if row >= size or (owner is not None and owner.vocabulary.get(token) == row):
                continue
            if row >= model.rows and owner in (None, models[0]):
                raise AcdcError(
                    f"{model.name}: the embedding has {model.rows} rows, but its tokenizer has "
                    f"token {token!r} with id {row}; drop the token or add the row"
                )
            assert owner is not None
            if owner is not models[0]:
                raise AcdcError(
                    f"{model.name}: id {row} is token {token!r}, but {token_of(owner, row)!r} in "
                    f"{owner.name}; give one of the tokens another id, or leave one of the models "
                    "out"
                )
            renamed.append((row, token))
        if renamed:
            row, token = min(renamed)
            notes.append(
                f"{model.name}: tokens with other names than in the base: {len(renamed)}, such as "
                f"{token!r} for {token_of(models[0], row)!r}"
            )
    return notes


def token_of(model: ModelDescription, row: int) -> str:
    """Return the first token of a model that has an id."""
    return _token(model.vocabulary, row)


def _in_order(model: ModelDescription, ids: Mapping[int, int], order: Order) -> ModelDescription:
    """Return a model as if its rows had been stored in another order."""
    rows = row_indices(order)
    vocabulary = {
        token: ids.get(row, row)
        for token, row in model.vocabulary.items()
        if row in ids or row >= len(rows)
    }
    return replace(
        model,
        config=replace(model.config, vocab_size=len(rows)),
        vocabulary=vocabulary,
        missing=frozenset((rows < 0).nonzero()[0].tolist()),
    )


def _token(vocabulary: Mapping[str, int], row: int) -> str:
    return next(token for token, number in vocabulary.items() if number == row)
