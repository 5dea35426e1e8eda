"""The models that a run starts from: checked by name before anything expensive happens."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.model import hf, tokenizer
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import Weights


@dataclasses.dataclass(frozen=True)
class Folders:
    """Hugging Face folders of the base and of the seeds, of one architecture.

    Attributes:
        base: the model that the seeds were tuned from.
        seeds: at least one.
        model: their common architecture.
    """

    base: Path
    seeds: tuple[Path, ...]
    model: ModelConfig


def check_folders(base: Path, seeds: tuple[Path, ...]) -> Folders:
    """Reads the configurations and refuses seeds that cannot be merged.

    Raises:
        AcdcError: a folder is missing, or differs from the base in a named field.
    """
    model = hf.read_config(base)
    for folder in seeds:
        other = hf.read_config(folder)
        for field in dataclasses.fields(ModelConfig):
            mine, theirs = getattr(model, field.name), getattr(other, field.name)
            if mine != theirs and field.name != "max_positions":
                raise AcdcError(
                    f"{folder}: {field.name} is {theirs}, but the base {base} has {mine}; "
                    "seeds must be fine-tunes of one base"
                )
    return Folders(base, seeds, model)


def cache_dir(config: Config) -> Path:
    """Where the tiny seeds are kept between runs."""
    if config.seeds.cache_dir:
        return Path(config.seeds.cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acdc_jax"


def load_model(
    folders: Folders, folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> Weights:
    """Reads the base or a seed, leaf by leaf, to the shardings of `wanted`."""
    shardings = {path: leaf.sharding for path, leaf in wanted.items()}
    return hf.load_weights(folder, folders.model, shardings)


def text_codec(
    folder: Path, system_prompt: str
) -> tuple[
    Callable[[str], tuple[int, ...]], Callable[[tuple[int, ...]], str], tuple[int, ...], int
]:
    """Between text and tokens, by a folder's tokenizer and chat template.

    Returns:
        Instructions → prompt tokens (remembered: a generation asks the same of every child);
        response tokens → text; stop tokens; the padding token.
    """
    tok = tokenizer.load_tokenizer(folder)
    stop = tokenizer.stop_tokens(folder, tok)

    @functools.lru_cache(maxsize=100_000)
    def encode(instructions: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode_chat(tok, instructions, system_prompt or None))

    @functools.lru_cache(maxsize=100_000)
    def decode(tokens: tuple[int, ...]) -> str:
        return tokenizer.decode(tok, list(tokens))

    pad = tok.pad_token_id if tok.pad_token_id is not None else stop[0]
    return encode, decode, stop, pad
