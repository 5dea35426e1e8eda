"""How members read and write text: with the first seed's tokenizer and chat template."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.inference.text_codec import TextCodec, make_text_codec
from acdc_jax.models import hf_export, tokenizer
from acdc_jax.models.chat_template import RefusedMessages, missing_generation_prompt
from acdc_jax.models.token_order import Order, reorder_tokenizer

_log = logging.getLogger(__name__)


def text_codec(
    seeds: Sequence[Path],
    config: DecodeOptions,
    rows: int,
    orders: Mapping[Path, Order] = MappingProxyType({}),
) -> TextCodec:
    """Return the first seed's tokenizer and chat template as functions.

    Args:
        seeds: Folders of the seeds.
        config: How members decode.
        rows: Rows of the members' embedding. A prompt with a token beyond them is refused.
        orders: See `Folders`.

    Raises:
        AcdcError: There is no tokenizer or chat template, or the template refuses instructions.
    """
    tok = tokenizer.load_tokenizer(seeds[0])
    tok.chat_template = chat_template(config) or tok.chat_template
    # Children may have inherited any seed's way to end a response.
    stops = [tokenizer.stop_tokens(seeds[0], tok)]
    for seed in seeds[1:]:
        order = orders.get(seed, ())
        own = reorder_tokenizer(tokenizer.load_tokenizer(seed), order)
        stops.append(tokenizer.stop_tokens(seed, own, order))
    stop_tokens = tuple(sorted({token for stop in stops for token in stop}))
    try:
        codec = make_text_codec(
            tok,
            stop_tokens,
            rows,
            system_prompt=config.system_prompt,
            thinking=config.thinking,
            stop_strings=config.stop_strings,
        )
    except RefusedMessages as error:
        if config.chat_template is None:
            raise
        raise AcdcError(f"--chat_template={config.chat_template}: {error}") from error
    if opening := missing_generation_prompt(tok):
        _log.warning(
            "%s: the chat template ignores add_generation_prompt; prompts end with %r, as it "
            "begins answers",
            config.chat_template or seeds[0],
            opening,
        )
    return codec


def chat_template(config: DecodeOptions) -> str | None:
    """Return the text of the chat template that the options name, or None."""
    if config.chat_template is None:
        return None
    try:
        text = Path(config.chat_template).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--chat_template={config.chat_template}: {error.strerror}") from None
    except UnicodeError as error:
        raise ConfigError(f"--chat_template={config.chat_template}: {error}") from None
    if not text.strip():
        raise ConfigError(f"--chat_template={config.chat_template}: the file is empty")
    return text


def keep_text_files(
    seed: Path, config: DecodeOptions, stop_tokens: Sequence[int], target: Path
) -> None:
    """Copy a seed's files, except weights, with the run's own chat template and stop tokens."""
    hf_export.copy_text_files(seed, target)
    hf_export.keep_stop_tokens(target, stop_tokens)
    if template := chat_template(config):
        (target / "chat_template.jinja").write_text(template, encoding="utf-8")
