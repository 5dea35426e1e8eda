"""Multimodal models, whose text decoder is what the project reads, merges and generates with.

Their `config.json` has the decoder's fields under `text_config`, and their weights have the
decoder's names under a prefix. All else, such as a vision tower, is the rest: exports carry it
along as it is.
"""

from collections.abc import Collection, Mapping
from typing import Any

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.models.config_fields import Fields

# Given text alone, these compute what their decoder computes. Others do not: PaliGemma's attention
# looks ahead, and the rotary positions of Qwen's have three axes.
_ARCHITECTURES = (
    "Gemma3ForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
)
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_QUANTISATION = "quantization_config"


def is_wrapper(hf_config: Fields) -> bool:
    """Return whether a `config.json` is of a supported multimodal model."""
    names = hf_config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    return first in _ARCHITECTURES


def decoder_fields(hf_config: Fields) -> Fields:
    """Return the fields of the text decoder, from those of a model that may be a wrapper.

    Wrappers leave out fields with the default value of transformers' class, which adds them here.

    Raises:
        AcdcError: transformers does not know the decoder, or refuses its fields.
    """
    if not is_wrapper(hf_config):
        return hf_config
    from transformers import CONFIG_MAPPING

    text = hf_config.get("text_config")
    if not isinstance(text, dict):
        raise AcdcError(f"field text_config = {text!r} must be a dict; download the file again")
    kind = text.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise AcdcError(f"unsupported text_config.model_type = {kind!r}")
    try:
        fields = dict(CONFIG_MAPPING[kind](**text).to_dict())
    except Exception as error:  # a configuration class can raise anything
        reason = one_line(error)
        raise AcdcError(f"text_config: {reason}") from error
    fields.pop("architectures", None)
    for name in ("tie_word_embeddings", "dtype", "torch_dtype", _QUANTISATION):
        if hf_config.get(name) is not None:
            fields[name] = hf_config[name]
    return fields


def wrap_fields(wrapper: Fields, decoder: Fields) -> dict[str, Any]:
    """Return the `config.json` of a wrapper with another decoder.

    Args:
        wrapper: The wrapper's own `config.json`.
        decoder: The new decoder's.
    """
    kept = {name: value for name, value in wrapper.items() if name != _QUANTISATION}
    shared = ("tie_word_embeddings", "dtype", "torch_dtype")
    return kept | {"text_config": dict(decoder)} | {name: decoder[name] for name in shared}


def decoder_names(stored: Collection[str]) -> dict[str, str]:
    """Return stored name → Hugging Face name in a model without a wrapper, of a decoder's weights.

    The decoder is where the embedding of tokens is: under `model.`; without a prefix, if somebody
    saved the model without its head; or under a wrapper's prefix.

    Args:
        stored: Names of all tensors. Those of other parts are not in the result.
    """
    embeddings = [name for name in stored if name.split(".")[-2:] == _EMBEDDING.split(".")]
    if len(embeddings) != 1:
        return {name: name for name in stored}
    prefix = embeddings[0].removesuffix(_EMBEDDING)
    heads = [name for name in stored if name.split(".")[-2:] == _HEAD.split(".")]
    names = dict.fromkeys(heads, _HEAD) if len(heads) == 1 else {}
    parts = ("embed_tokens.", "layers.", "norm.")
    for name in stored:
        if name.startswith(tuple(prefix + part for part in parts)):
            names[name] = f"model.{name.removeprefix(prefix)}"
    return names


def wrapped_names(stored: Collection[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return dotted path → name that a decoder's weight has in a wrapper.

    Args:
        stored: Names of all tensors of the wrapper, whose prefix is used.
        names: Dotted path → name without a wrapper.
    """
    (embedding,) = (
        name for name, decoder in decoder_names(stored).items() if decoder == f"model.{_EMBEDDING}"
    )
    prefix = embedding.removesuffix(_EMBEDDING)
    # transformers has had two layouts: language_model.model.…, and model.language_model.….
    head = _HEAD if prefix.startswith("model.") else f"{prefix.removesuffix('model.')}{_HEAD}"
    return {
        path: head if name == _HEAD else prefix + name.removeprefix("model.")
        for path, name in names.items()
    }
