"""How each seed answers by itself: with its own configuration, chat template and stop tokens.

Members are computed with the base's configuration and the run's chat template, as in the paper's
code, and as exported members are served. A seed in the archive or in a task force is such a member.
A seed as a *baseline* is what a user would run instead: its own folder says how.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.inference.text_codec import TextCodec, make_text_codec
from acdc_jax.models import tokenizer
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.merge_compatibility import own_config
from acdc_jax.models.token_order import Order, reorder_tokenizer
from acdc_jax.runtime.member_text import chat_template
from acdc_jax.runtime.seed_models import Folders

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class OwnEngine:
    """An engine for a seed by itself.

    Attributes:
        engine: How it decodes.
        differences: In what it differs from the members' engine, in words.
    """

    engine: Engine
    differences: tuple[str, ...]


def own_engines(
    folders: Folders, config: DecodeOptions, engine: Engine
) -> Mapping[Path, OwnEngine]:
    """Return the engine of each seed whose own configuration differs from the members'.

    Decoding options that are no property of a model, such as the system prompt and the longest
    response, are the run's. A seed without a chat template gets the run's.

    Args:
        folders: The base and the seeds.
        config: How members decode.
        engine: The members' engine.

    Returns:
        Folder of a seed → its engine. Seeds that are missing share the members' engine.
    """
    first = tokenizer.load_tokenizer(folders.seeds[0])
    template = chat_template(config) or first.chat_template
    engines = {}
    for folder in dict.fromkeys(folders.seeds):
        model = own_config(folders.stored[folder], folders.model)
        order = folders.orders.get(folder, ())
        tok = reorder_tokenizer(tokenizer.load_tokenizer(folder), order)
        tok.chat_template = tok.chat_template or template
        changes = [
            f"{name} {value}"
            for name, value in vars(model).items()
            if value != getattr(folders.model, name)
        ]
        codec = _codec(folder, tok, order, config, model)
        if codec is not None:
            changes += ["chat template"] if tok.chat_template != template else []
            changes += ["tokenizer"] if _differ(tok, first, order) else []
            changes += ["stop tokens"] if codec.stop_tokens != engine.stop_tokens else []
        if changes:
            engines[folder] = OwnEngine(_engine(engine, model, codec), tuple(changes))
    return engines


def _codec(
    folder: Path, tok: Any, order: Order, config: DecodeOptions, model: ModelConfig
) -> TextCodec | None:
    """Return a seed's tokenizer as functions; None if it cannot ask a question."""
    try:
        return make_text_codec(
            tok,
            tokenizer.stop_tokens(folder, tok, order),
            model.vocab_size,
            system_prompt=config.system_prompt,
            thinking=config.thinking,
            stop_strings=config.stop_strings,
        )
    except AcdcError as error:
        _log.warning("%s: is asked as the members are, as a baseline too (%s)", folder, error)
        return None


def _engine(members: Engine, model: ModelConfig, codec: TextCodec | None) -> Engine:
    """Return the members' engine with another model and, unless it is None, another codec.

    In a shorter window, a prompt that is too long loses its beginning, as in lm-evaluation-harness.
    """
    engine = dataclasses.replace(members, model=model)
    if codec is not None:
        engine = dataclasses.replace(
            engine,
            encode=codec.encode,
            decode=codec.decode,
            stop_tokens=codec.stop_tokens,
            pad_token=codec.pad_token,
            prefix=codec.prefix,
            stopped=codec.stopped,
        )
    window, longest, whole = model.max_positions, members.max_new_tokens, engine.encode
    if window == members.model.max_positions:
        return engine
    room = window - min(longest, window // 2)

    def encode(instructions: str) -> Sequence[int]:
        return whole(instructions)[-room:]

    return dataclasses.replace(
        engine,
        encode=encode,
        longest=lambda instructions: min(longest, window - len(encode(instructions))),
    )


def _differ(tok: Any, first: Any, order: Order) -> bool:
    """Return whether a seed's tokenizer differs from the members'.

    Where rows have been put in order, tokenizers can only differ in added tokens.
    """
    if order:
        return bool(tok.get_vocab() != first.get_vocab())
    return bool(_definition(tok) != _definition(first))


def _definition(tok: Any) -> Any:
    """Return what a tokenizer does with text; equal for equal tokenizers."""
    backend = getattr(tok, "backend_tokenizer", None)
    return tok.get_vocab() if backend is None else backend.to_str()
