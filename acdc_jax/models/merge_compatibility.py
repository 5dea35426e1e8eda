"""Whether models can be merged: told from configurations and tokenizers, before any is loaded.

Differences that can be reconciled exactly are: another dtype, a head apart from the embedding, and
rows of the embedding that no token uses. Everything else is refused by name.
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
# No weights depend on these: a seed can be computed with the base's, if asked to.
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
class Checkpoint:
    """A model that is not loaded yet.

    Attributes:
        name: What the user calls it: a folder or a Hub id.
        config: As it is stored.
        vocabulary: Token → id, of its tokenizer.
    """

    name: str
    config: ModelConfig
    vocabulary: Mapping[str, int]


def common_config(
    base: Checkpoint, seeds: Sequence[Checkpoint], *, adopt: bool = False
) -> tuple[ModelConfig, list[str]]:
    """Returns the configuration that all models are brought to, and what that changes in whom.

    Args:
        base: The model that the seeds were tuned from; it decides where nothing else does.
        seeds: The others.
        adopt: Whether seeds take the base's `ADOPTABLE` fields instead of being refused.

    Returns:
        The configuration, and one line for every change.

    Raises:
        AcdcError: The models differ in what cannot be reconciled; the model, the field and both
            values are named.
    """
    notes = _check_vocabularies((base, *seeds))
    for seed in seeds:
        for field in fields(ModelConfig):
            mine, theirs = (getattr(one.config, field.name) for one in (base, seed))
            if mine == theirs or field.name in _RECONCILED:
                continue
            if field.name not in ADOPTABLE:
                raise AcdcError(
                    f"{seed.name}: {field.name} is {theirs}, but the base {base.name} has "
                    f"{mine}; seeds must be fine-tunes of one base"
                )
            if not adopt:
                raise AcdcError(
                    f"{seed.name}: {field.name} is {theirs}, but the base {base.name} has "
                    f"{mine}; merges can have one only: --adopt_base_config takes the base's"
                )
            notes.append(f"{seed.name}: {field.name} {theirs} → {mine}, as the base has it")
    everyone = (base, *seeds)
    dtypes = {one.config.dtype for one in everyone}
    common = replace(
        base.config,
        dtype=dtypes.pop() if len(dtypes) == 1 else "float32",
        tie_embeddings=all(one.config.tie_embeddings for one in everyone),
    )
    for one in everyone:
        notes += [f"{one.name}: {change}" for change in _changes(one.config, common)]
    return common, notes


def adapt(
    weights: Params,
    config: ModelConfig,
    base: Params | None = None,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Params:
    """Brings loaded weights to a common configuration, exactly; leaf by leaf, the old one goes.

    Args:
        weights: As they are stored; emptied.
        config: From `common_config`.
        base: The base, adapted: rows that the weights lack are its rows. None: they lack none.
        shardings: Where each weight goes, by dotted path; None leaves it where it is.
    """
    adapted: Params = {}
    for path, expected in param_shapes(config).items():
        # A tied model's head is its embedding, from here on as a weight of its own.
        leaf = weights.pop(path) if path in weights else adapted["embed.weight"].copy()
        leaf = leaf.astype(expected.dtype)
        if path in _VOCABULARY_LEAVES:
            leaf = leaf[: config.vocab_size]
            if leaf.shape != expected.shape:
                assert base is not None
                leaf = jnp.concatenate([leaf, base[path][leaf.shape[0] :]])
        adapted[path] = leaf if shardings is None else jax.device_put(leaf, shardings[path])
    return adapted


def _changes(stored: ModelConfig, common: ModelConfig) -> list[str]:
    """What `adapt` does to a model."""
    changes = []
    if stored.dtype != common.dtype:
        changes.append(f"{stored.dtype} → {common.dtype}, because the models' dtypes differ")
    if stored.tie_embeddings != common.tie_embeddings:
        changes.append("the head becomes a copy of the embedding, because others' are apart")
    surplus = stored.vocab_size - common.vocab_size
    if surplus > 0:
        changes.append(f"{surplus} rows of the embedding that no token uses are cut")
    if surplus < 0:
        changes.append(f"{-surplus} rows that no token uses are added, copied from the base")
    return changes


def _check_vocabularies(models: Sequence[Checkpoint]) -> list[str]:
    """Refuses tokenizers by which a token has a row here but not there, or two; says the rest."""
    most = max(model.config.vocab_size for model in models)
    numbers: dict[str, tuple[int, str]] = {}
    notes = []
    for model in models:
        # Gemma 3's text models have no row for images, Llama 2's fine-tunes often none for [PAD].
        without = [token for token, number in model.vocabulary.items() if number >= most]
        if without:
            notes.append(
                f"{model.name}: tokens for which no model has a row: {len(without)}, such as "
                f"{without[0]!r} with id {model.vocabulary[without[0]]}; no prompt may hold them"
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
            known, where = numbers.setdefault(token, (number, model.name))
            if known != number:
                raise AcdcError(
                    f"{model.name}: token {token!r} has id {number}, but {known} in {where}; "
                    "their embeddings cannot be merged"
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
