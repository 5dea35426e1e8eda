"""Check whether models can be merged, from configurations and tokenizers, before any is loaded.

Some differences are reconciled exactly: an output head separate from the embedding, and rows of the
embedding that no token uses. Dtypes are cast to one. All others raise an error that names them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
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
    "local_rope_theta",
    "windows",
    "rms_norm_eps",
)
_VOCABULARY_LEAVES = ("embed.weight", "head.weight")


@dataclass(frozen=True)
class ModelDescription:
    """A model that is not loaded yet.

    Attributes:
        name: The folder or Hub id, for messages.
        config: Its configuration, as stored.
        vocabulary: Token → id.
    """

    name: str
    config: ModelConfig
    vocabulary: Mapping[str, int]


def common_config(
    base: ModelDescription,
    seeds: Sequence[ModelDescription],
    *,
    adopt: bool = False,
    dtype: str | None = None,
) -> tuple[ModelConfig, list[str]]:
    """Return the common configuration of all models, and the changes that it requires.

    Args:
        base: The model that the seeds were tuned from.
        seeds: The other models.
        adopt: Whether seeds adopt the base's `ADOPTABLE` fields. Otherwise a difference is an
            error.
        dtype: Dtype of all models; None: the base's.

    Returns:
        The configuration, and one line per change, except of dtypes.

    Raises:
        AcdcError: The models have a difference that cannot be reconciled. The message names the
            model, the field and both values.
    """
    notes = _check_vocabularies((base, *seeds))
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
    models = (base, *seeds)
    common = replace(
        base.config,
        dtype=dtype or base.config.dtype,
        tie_embeddings=all(model.config.tie_embeddings for model in models),
    )
    for model in models:
        notes += [f"{model.name}: {change}" for change in _changes(model.config, common)]
    return common, notes


def own_config(stored: ModelConfig, common: ModelConfig) -> ModelConfig:
    """Return the configuration with which a seed's adapted weights compute what it computes alone.

    Args:
        stored: The seed's configuration, as stored.
        common: From `common_config`.

    Returns:
        `common` with the seed's own `ADOPTABLE` fields, and with its own window if that is shorter.
    """
    fields = {name: getattr(stored, name) for name in ADOPTABLE}
    positions = min(stored.max_positions, common.max_positions)
    return replace(common, **fields, max_positions=positions)


def adapt(
    weights: Params,
    config: ModelConfig,
    base: Params | None = None,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Params:
    """Convert loaded weights to the shapes of a common configuration, exactly.

    Args:
        weights: Weights in the common dtype. The dictionary is taken over and emptied, so that each
            old leaf is freed once the new one exists.
        config: From `common_config`.
        base: The base, adapted, whose rows fill missing rows of the embedding; None: no row is
            missing.
        shardings: Sharding of each weight, by dotted path; None: unchanged.
    """
    adapted: Params = {}
    for path, expected in param_shapes(config).items():
        # A tied model's embedding becomes a separate head, too.
        leaf = weights.pop(path) if path in weights else adapted["embed.weight"].copy()
        if path in _VOCABULARY_LEAVES:
            leaf = leaf[: config.vocab_size]
            if leaf.shape != expected.shape:
                assert base is not None
                leaf = jnp.concatenate([leaf, base[path][leaf.shape[0] :]])
        adapted[path] = leaf if shardings is None else jax.device_put(leaf, shardings[path])
    return adapted


def _changes(stored: ModelConfig, common: ModelConfig) -> list[str]:
    """Return what `adapt` changes in a model, one line each."""
    changes = []
    if stored.tie_embeddings != common.tie_embeddings:
        changes.append("the head becomes a copy of the embedding, because other heads are separate")
    surplus = stored.vocab_size - common.vocab_size
    if surplus > 0:
        changes.append(f"{surplus} rows of the embedding that no token uses are removed")
    if surplus < 0:
        changes.append(f"{-surplus} rows that no token uses are added, copied from the base")
    return changes


def _check_vocabularies(models: Sequence[ModelDescription]) -> list[str]:
    """Raise if models disagree on the row of a token; return notes on harmless differences."""
    most = max(model.config.vocab_size for model in models)
    numbers: dict[str, tuple[int, str]] = {}
    notes = []
    for model in models:
        # Gemma 3's text models have no row for images, Llama 2's fine-tunes often none for [PAD].
        without = [token for token, number in model.vocabulary.items() if number >= most]
        if without:
            notes.append(
                f"{model.name}: tokens without a row in any model: {len(without)}, such as "
                f"{without[0]!r} with id {model.vocabulary[without[0]]}; do not use them in prompts"
            )
        with_row = {token: i for token, i in model.vocabulary.items() if i < most}
        last = max(with_row, key=with_row.__getitem__)
        for other in models:
            if with_row[last] >= other.config.vocab_size:
                whose = "its" if model is other else f"{model.name}'s"
                raise AcdcError(
                    f"{other.name}: the embedding has {other.config.vocab_size} rows, but "
                    f"{whose} tokenizer has token {last!r} with id {with_row[last]}; "
                    "drop the token or add the row"
                )
        for token, number in with_row.items():
            first_number, where = numbers.setdefault(token, (number, model.name))
            if first_number != number:
                raise AcdcError(
                    f"{model.name}: token {token!r} has id {number}, but {first_number} in "
                    f"{where}; their embeddings cannot be merged"
                )
    names = {number: token for token, number in models[0].vocabulary.items() if number < most}
    for model in models[1:]:
        renamed = {
            number: token
            for token, number in model.vocabulary.items()
            if names.get(number, token) != token
        }
        if renamed:
            number, token = min(renamed.items())
            notes.append(
                f"{model.name}: tokens with other names than in the base: {len(renamed)}, such as "
                f"{token!r} for {names[number]!r}"
            )
    return notes
