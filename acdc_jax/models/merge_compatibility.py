"""Check whether models can be merged, from configurations and tokenizers, before any is loaded.

Some differences are reconciled exactly: an output head separate from the embedding, added tokens,
another order of tokens, and rows of the embedding that no token uses. Dtypes are cast to one. All
others raise an error that names them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.segmentation import Segmentation, difference
from acdc_jax.models.token_order import (
    REORDERED,
    VOCABULARY_LEAVES,
    Order,
    Rows,
    assign_ids,
    order_of,
    row_indices,
    runs,
)
from acdc_jax.models.transformer import param_shapes
from acdc_jax.params import Params

_RECONCILED = ("vocab_size", "tie_embeddings", "dtype", "max_positions")
# No weights depend on these fields: a seed can adopt the base's values.
ADOPTABLE = (
    "rope_theta",
    "rope_type",
    "rope_factor",
    "rope_low_freq_factor",
    "rope_high_freq_factor",
    "rope_original_positions",
    "rope_beta_fast",
    "rope_beta_slow",
    "rope_truncate",
    "rope_attention_factor",
    "local_rope_theta",
    "windows",
    "rms_norm_eps",
)


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


@dataclass(frozen=True)
class CommonModel:
    """What all models have in common, after the changes that `adapt` makes.

    Attributes:
        config: The common configuration.
        orders: Order of the rows of the base and of each seed.
        base_rows: Rows that the base takes from a seed, each with the number of that seed.
        seed_rows: For each seed, the rows that it takes from the base instead of its own. It also
            takes the rows after its last one.
        notes: One line per change, except of dtypes.
    """

    config: ModelConfig
    orders: tuple[Order, ...]
    base_rows: tuple[tuple[Rows, int], ...]
    seed_rows: tuple[tuple[Rows, ...], ...]
    notes: list[str]


def common_model(
    base: ModelDescription,
    seeds: Sequence[ModelDescription],
    *,
    adopt: bool = False,
    dtype: str | None = None,
) -> CommonModel:
    """Return the common configuration of all models, and the changes that it requires.

    The vocabulary is the union of all. Tokens have the ids of the first seed, whose tokenizer
    members have. A model that lacks a token takes its row from the first model that has it: the
    base, or else a seed, from which the base takes it, too. So the token's task vectors are zero
    except in other models that have it, and children keep the row.

    Args:
        base: The model that the seeds were tuned from.
        seeds: The other models.
        adopt: Whether seeds adopt the base's `ADOPTABLE` fields. Otherwise a difference is an
            error.
        dtype: Dtype of all models; None: the base's.

    Raises:
        AcdcError: The models have a difference that cannot be reconciled. The message names the
            model, the field and both values.

    Source:
        mergekit, `tokenizer_source: union`: a token that one model has keeps its embedding.
    """
    for model in (base, *seeds):
        _check_size(model)
    models, orders, notes = _align(base, seeds)
    base, *seeds = models
    sources = _added_tokens(base, seeds)
    size = max(base.rows, 1 + max(sources, default=-1))
    notes += _check_vocabularies(models, size)
    for seed in seeds:
        for field in fields(ModelConfig):
            ours, theirs = (getattr(model.config, field.name) for model in (base, seed))
            if ours == theirs or field.name in _RECONCILED:
                continue
            if field.name not in ADOPTABLE:
                raise AcdcError(
                    f"{seed.name}: {field.name} is {theirs}, but the base {base.name} has "
                    f"{ours}; seeds must be fine-tunes of one base"
                )
            if not adopt:
                raise AcdcError(
                    f"{seed.name}: {field.name} is {theirs}, but the base {base.name} has "
                    f"{ours}; give --adopt_base_config to use the base's value"
                )
            notes.append(f"{seed.name}: {field.name} {theirs} → {ours}, the base's value")
    common = replace(
        base.config,
        vocab_size=size,
        dtype=dtype or base.config.dtype,
        tie_embeddings=all(model.config.tie_embeddings for model in models),
    )
    unused = {  # ids between added tokens
        row: _first_with(row, seeds)
        for row in range(size)
        if not base.has(row) and row not in sources
    }
    seed_rows = []
    for model in models:
        own = set(model.vocabulary.values())
        lacking = sorted(row for row in sources if row not in own or row >= model.rows)
        replaced = {row for row in lacking if row < model.rows} | model.missing
        seed_rows.append(runs(sorted(row for row in replaced if row < size)))
        example = _name(seeds[sources[lacking[0]]], lacking[0]) if lacking else ""
        changes = _changes(model.config, common, lacking, example)
        notes += [f"{model.name}: {change}" for change in changes]
    unnamed = sources.keys() - set(seeds[0].vocabulary.values())
    if unnamed:
        row = min(unnamed)
        seed = seeds[sources[row]]
        notes.append(
            f"{seeds[0].name}: members have its tokenizer, which lacks tokens that other seeds "
            f"added: {len(unnamed)}, such as {_name(seed, row)!r} of {seed.name}; the text "
            "of responses leaves them out; to keep them, name that seed first in --seed_models"
        )
    base_rows = [
        (rows, number)
        for number in range(len(seeds))
        for rows in runs(sorted(row for row, n in (sources | unused).items() if n == number))
    ]
    return CommonModel(common, orders, tuple(sorted(base_rows)), tuple(seed_rows[1:]), notes)


def own_config(stored: ModelConfig, common: ModelConfig) -> ModelConfig:
    """Return the configuration with which a seed's adapted weights compute what it computes alone.

    Args:
        stored: The seed's configuration, as stored.
        common: From `common_model`.

    Returns:
        `common` with the seed's own `ADOPTABLE` fields, and with its own window if that is shorter.
    """
    fields = {name: getattr(stored, name) for name in ADOPTABLE}
    positions = min(stored.max_positions, common.max_positions)
    return replace(common, **fields, max_positions=positions)


def adapt(
    weights: Params,
    config: ModelConfig,
    borrowed: Sequence[tuple[int, Params]] = (),
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Params:
    """Convert loaded weights to the shapes of a common configuration, exactly.

    Args:
        weights: Weights in the common dtype. The dictionary is taken over and emptied, so that each
            old leaf is freed once the new one exists.
        config: From `common_model`.
        borrowed: First row, and rows of the embedding and of a head, by path, that replace the
            model's own or are added, in ascending order.
        shardings: Sharding of each weight, by dotted path; None: unchanged.
    """
    adapted: Params = {}
    expected = param_shapes(config)
    if "head.weight" in expected.keys() - weights.keys():
        weights["head.weight"] = weights["embed.weight"].copy()
    for path in expected:
        leaf = weights.pop(path)
        if path in VOCABULARY_LEAVES:
            rows_of_leaf = [(start, rows[path]) for start, rows in borrowed]
            leaf = adapt_rows(leaf, config.vocab_size, rows_of_leaf)
        assert leaf.shape == expected[path].shape, path
        adapted[path] = leaf if shardings is None else jax.device_put(leaf, shardings[path])
    return adapted


def adapt_rows(
    matrix: jax.Array, size: int, borrowed: Iterable[tuple[int, jax.Array]]
) -> jax.Array:
    """Return an embedding or a head with the rows of the common vocabulary.

    Args:
        matrix: [rows, hidden].
        size: Rows of the common vocabulary, which `borrowed` completes.
        borrowed: First row, and rows that replace the matrix's own or are added, in ascending
            order.
    """
    matrix = matrix[:size]
    for start, rows in borrowed:
        matrix = jnp.concatenate([matrix[:start], rows, matrix[start + rows.shape[0] :]])
    return matrix


def _check_size(model: ModelDescription) -> None:
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


def _align(
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


def _added_tokens(base: ModelDescription, seeds: Sequence[ModelDescription]) -> dict[int, int]:
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


def _first_with(row: int, seeds: Sequence[ModelDescription]) -> int:
    """Return the number of the first seed that has a row."""
    for number, seed in enumerate(seeds):
        if seed.has(row):
            return number
    raise AcdcError(f"{seeds[0].name}: no model has a row for id {row}; add rows to the embedding")


def _name(model: ModelDescription, row: int) -> str:
    return _token(model.vocabulary, row)


def _token(vocabulary: Mapping[str, int], row: int) -> str:
    return next(token for token, number in vocabulary.items() if number == row)


def _changes(
    stored: ModelConfig, common: ModelConfig, lacking: Sequence[int], example: str
) -> list[str]:
    """Return what `adapt` changes in a model, one line each.

    Args:
        stored: The model's own configuration.
        common: The common one.
        lacking: Ids of tokens that another model has and this one lacks.
        example: One of these tokens.
    """
    changes = []
    if stored.tie_embeddings != common.tie_embeddings:
        changes.append("the head becomes a copy of the embedding, because other heads are separate")
    surplus = stored.vocab_size - common.vocab_size
    if surplus > 0:
        changes.append(f"{surplus} rows of the embedding that no token uses are removed")
    if lacking:
        changes.append(
            f"rows of tokens that it lacks: {len(lacking)}, such as {example!r}; they are copied "
            "from the first model that has them"
        )
    unused = -surplus - sum(row >= stored.vocab_size for row in lacking)
    if unused > 0:
        changes.append(f"{unused} rows that no token uses are added, copied from the base")
    return changes


def _check_vocabularies(models: Sequence[ModelDescription], size: int) -> list[str]:
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
                    f"{model.name}: id {row} is token {token!r}, but {_name(owner, row)!r} in "
                    f"{owner.name}; give one of the tokens another id, or leave one of the models "
                    "out"
                )
            renamed.append((row, token))
        if renamed:
            row, token = min(renamed)
            notes.append(
                f"{model.name}: tokens with other names than in the base: {len(renamed)}, such as "
                f"{token!r} for {_name(models[0], row)!r}"
            )
    return notes
