"""How base and seeds differ in what their files say: licences, tokenizers, chat templates."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models import tokenizer
from acdc_jax.models.adapters.folder import is_adapted
from acdc_jax.models.chat_template import prompt_text
from acdc_jax.models.find_model import is_on_hub
from acdc_jax.models.model_card import bases_of, licence_of
from acdc_jax.run_options import SeedOptions
from acdc_jax.runtime.member_text import chat_template
from acdc_jax.runtime.seed_models import Folders

_TEMPLATES = ("chat_template.jinja", "chat_template.json", "special_tokens_map.json")
_SPECIAL = ("bos_token", "eos_token", "pad_token")
_QUESTION = "Why is the sky blue?"


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """The base or a seed.

    Attributes:
        name: As the flags name it; of a registered set, the name of its folder.
        folder: Its folder.
        licence: As its card states it.
    """

    name: str
    folder: Path
    licence: str


def name_models(options: SeedOptions, folders: Folders) -> list[NamedModel]:
    """Return the base, then the seeds."""
    places = (folders.base, *folders.seeds)
    names: Sequence[str] = [folder.name for folder in places]
    if options.base_model:
        names = (options.base_model, *options.seed_models)
    return [
        NamedModel(name, folder, licence_of(folder))
        for name, folder in zip(names, places, strict=True)
    ]


def compare_descriptions(
    models: Sequence[NamedModel], folders: Folders, options: DecodeOptions
) -> list[str]:
    """Return how the models differ in all but their weights, one line each.

    Left out is what `check_folders` reconciles, which it says itself.

    Args:
        models: The base, then the seeds.
        folders: Of these models.
        options: How members decode.

    Raises:
        AcdcError: A tokenizer cannot be loaded, or has no end-of-sequence token.
    """
    seeds = models[1:]
    return [
        *_licences(models),
        *_declared_bases(models),
        *_windows(seeds, folders),
        *_tokenizers(seeds, options),
    ]


def _licences(models: Sequence[NamedModel]) -> list[str]:
    names = defaultdict[str, list[str]](list)
    for model in models:
        names[model.licence].append(model.name)
    if len(names) == 1:
        return []
    terms = "; ".join(
        f"{licence} ({', '.join(dict.fromkeys(of))})" for licence, of in names.items()
    )
    return [f"licences differ, and a merge has the terms of all: {terms}"]


def _declared_bases(models: Sequence[NamedModel]) -> list[str]:
    """Return which seeds' cards name another base, if the base is named by its Hub id.

    Of adapters, `check_folders` says it.
    """
    base, *seeds = models
    if not is_on_hub(base.name):
        return []
    hub_id = base.name.partition("@")[0]
    return [
        f"{seed.name}: its card names {', '.join(bases)} as its base, not {hub_id}"
        for seed in seeds
        if not is_adapted(seed.folder)
        if (bases := bases_of(seed.folder)) and hub_id.lower() not in map(str.lower, bases)
    ]


def _windows(seeds: Sequence[NamedModel], folders: Folders) -> list[str]:
    longest = folders.model.max_positions
    return [
        f"{seed.name}: its window is {own} tokens, the members' is {longest}, the base's"
        for seed in seeds
        if (own := folders.stored[seed.folder].max_positions) != longest
    ]


def _tokenizers(seeds: Sequence[NamedModel], options: DecodeOptions) -> list[str]:
    """Return differences of chat templates, special tokens and stop tokens."""
    toks = _load_tokenizers([seed.folder for seed in seeds])
    first = toks[0]
    override = chat_template(options)
    template, source = override or first.chat_template, seeds[0].name
    if override:
        source = f"--chat_template={options.chat_template}"
    expected = _prompt(first, template, options)
    lines = []
    for seed, tok in zip(seeds, toks, strict=True):
        if not tok.chat_template:
            lines.append(f"{seed.name}: has no chat template; it gets that of {source}")
        elif tok.chat_template != template:
            same = _prompt(tok, tok.chat_template, options) == expected
            effect = "the same prompt" if same else "another prompt"
            lines.append(
                f"{seed.name}: its chat template writes {effect} for a question; members have "
                f"that of {source}"
            )
        changes = [
            f"{name} {getattr(tok, name)!r} instead of {getattr(first, name)!r}"
            for name in _SPECIAL
            if getattr(tok, name) != getattr(first, name)
        ]
        if changes:
            lines.append(f"{seed.name}: {', '.join(changes)} ({seeds[0].name}, the members')")
    stops = [
        tuple(tok.convert_ids_to_tokens(list(tokenizer.stop_tokens(seed.folder, tok))))
        for seed, tok in zip(seeds, toks, strict=True)
    ]
    if len(set(stops)) > 1:
        tokens = (
            f"{s.name} {' '.join(map(repr, stop))}" for s, stop in zip(seeds, stops, strict=True)
        )
        lines.append(f"stop tokens differ, and members stop at each: {'; '.join(tokens)}")
    return lines


def _load_tokenizers(folders: Sequence[Path]) -> list[Any]:
    """Return each folder's tokenizer; folders with the same files share one."""
    by_files: dict[tuple[bytes, ...], Any] = {}
    toks = []
    for folder in folders:
        paths = [folder / name for name in _TEMPLATES]
        templates = (path.read_bytes() if path.is_file() else b"" for path in paths)
        files = (*tokenizer.vocabulary_hashes(folder), *templates)
        if files not in by_files:
            by_files[files] = tokenizer.load_tokenizer(folder)
        toks.append(by_files[files])
    return toks


def _prompt(tok: Any, template: Any, options: DecodeOptions) -> str | None:
    """Return the prompt of a question in a chat template; None if that refuses it."""
    own, tok.chat_template = tok.chat_template, template
    try:
        return prompt_text(tok, _QUESTION, options.system_prompt, thinking=options.thinking)
    except AcdcError:
        return None
    finally:
        tok.chat_template = own
