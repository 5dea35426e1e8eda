"""Check whether models can be merged, from configurations and tokenizers, before any is loaded.

Some differences are reconciled exactly: an output head separate from the embedding, added tokens,
another order of tokens, and rows of the embedding that no token uses. Dtypes are cast to one. All
others raise an error that names them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp

from acdc_jax.errors import AcdcError
from acdc_jax.models.common_vocabulary import (
    ModelDescription,
    added_tokens,
    align_tokens,
    check_size,
    check_vocabularies,
    first_with_row,
    token_of,
)
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.token_order import VOCABULARY_LEAVES, Order, Rows, runs
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
        check_size(model)
    models, orders, notes = align_tokens(base, seeds)
    base, *seeds = models
    sources = added_tokens(base, seeds)
    size = max(base.rows, 1 + max(sources, default=-1))
    notes += check_vocabularies(models, size)
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
        row: first_with_row(row, seeds)
        for row in range(size)
        if not base.has(row) and row not in sources
    }
    seed_rows = []
    for model in models:
        own = set(model.vocabulary.values())
        lacking = sorted(row for row in sources if row not in own or row >= model.rows)
        replaced = {row for row in lacking if row < model.rows} | model.missing
        seed_rows.append(runs(sorted(row for row in replaced if row < size)))
        example = token_of(seeds[sources[lacking[0]]], lacking[0]) if lacking else ""
        changes = _changes(model.config, common, lacking, example)
        notes += [f"{model.name}: {change}" for change in changes]
    unnamed = sources.keys() - set(seeds[0].vocabulary.values())
    if unnamed:
        row = min(unnamed)
        seed = seeds[sources[row]]
        notes.append(
            f"{seeds[0].name}: members have its tokenizer, which lacks tokens that other seeds "
            f"added: {len(unnamed)}, such as {token_of(seed, row)!r} of {seed.name}; the text "
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
