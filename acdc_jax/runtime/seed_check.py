"""Do these seeds merge? How base and seeds differ in what their files say, and in their weights.

`acdc seeds check` compares all of them. A run compares each seed with the base, as it loads both.
"""

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.task_vectors import (
    BASE,
    FIRST_SEED,
    ORIGIN,
    PROJECTIONS,
    Squares,
    cosines,
    module_of,
    relative_distances,
    squared_distances,
    total,
)
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models import hub, tokenizer
from acdc_jax.models.adapters.folder import is_adapted
from acdc_jax.models.chat_template import prompt_text
from acdc_jax.models.model_card import bases_of, licence_of
from acdc_jax.models.transformer import param_shapes
from acdc_jax.run_options import SeedOptions
from acdc_jax.runtime.progress import Progress
from acdc_jax.runtime.seed_models import Folders, chat_template, stream_models
from acdc_jax.runtime.setup import RunContext

UNRELATED = 0.1
"""Cosine of the projections' weights below which a seed is not a fine-tune of the base.

Norm gains are left out: they are near one in every model. Two of the quickstart's bases, trained
from different initial weights, have a cosine of 0.16 over all weights and of 0.003 over the
projections, and an expert and its base 0.9998. In SmolLM2-135M-Instruct, cosines between
projections of different layers, which have nothing in common, are −0.02 to 0.02. Continued
pretraining lies between; no such model has been measured.
"""

_TEMPLATES = ("chat_template.jinja", "chat_template.json", "special_tokens_map.json")
_SPECIAL = ("bos_token", "eos_token", "pad_token")
_QUESTION = "Why is the sky blue?"

_log = logging.getLogger(__name__)


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


# ---------------------------------------------------------------------------------- descriptions


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
    stated = "; ".join(
        f"{licence} ({', '.join(dict.fromkeys(of))})" for licence, of in names.items()
    )
    return [f"licences differ, and a merge has the terms of all: {stated}"]


def _declared_bases(models: Sequence[NamedModel]) -> list[str]:
    """Return which seeds' cards name another base, if the base is named by its Hub id.

    Of adapters, `check_folders` says it.
    """
    base, *seeds = models
    if not hub.is_id(base.name) or Path(base.name).expanduser().exists():
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
        named = (
            f"{s.name} {' '.join(map(repr, stop))}" for s, stop in zip(seeds, stops, strict=True)
        )
        lines.append(f"stop tokens differ, and members stop at each: {'; '.join(named)}")
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


# --------------------------------------------------------------------------------------- weights


def measure_weights(folders: Folders, progress: Progress) -> dict[str, Squares]:
    """Return the squared distances of base and seeds by module, read weight by weight.

    Args:
        folders: From `check_folders`.
        progress: Shows how many weights are read.

    Raises:
        AcdcError: A weight is missing, damaged, not finite, or has another shape.
    """
    squares: dict[str, Squares] = {}
    count = len(param_shapes(folders.model))
    for done, (path, leaves) in enumerate(stream_models(folders), 1):
        _add(squares, path, squared_distances(leaves))
        progress("comparing weights", done, count)
    return squares


def compare_weights(models: Sequence[NamedModel], squares: Mapping[str, Squares]) -> list[str]:
    """Return which models have the same weights, or weights that have nothing in common.

    Args:
        models: The base, then the seeds.
        squares: Module → squared distances of these models.
    """
    base, *seeds = (model.name for model in models)
    distances, angles = total(squares), cosines(total(squares, PROJECTIONS), ORIGIN)
    copies = {
        point
        for point in range(FIRST_SEED, len(distances))
        if (distances[FIRST_SEED:point, point] == 0).any()
    }
    unrelated = [p for p in range(FIRST_SEED, len(angles)) if angles[BASE, p] < UNRELATED]
    lines = []
    for point, seed in enumerate(seeds, FIRST_SEED):
        if point in copies:
            first = int(np.argmin(distances[FIRST_SEED:point, point]))
            lines.append(_same_weights(seeds[first], seed))
        elif distances[BASE, point] == 0:
            lines.append(f"{seed}: has the weights of the base {base}")
        elif point in unrelated:
            lines.append(
                f"{seed}: is no fine-tune of the base {base}: the cosine of their weights is "
                f"{angles[BASE, point]:.3f}, as of models trained apart; do not merge them"
            )
    between = angles[FIRST_SEED:, FIRST_SEED:]
    if len(unrelated) == len(seeds) > 1 and np.nanmin(between) > UNRELATED:
        lines.append(f"the seeds are fine-tunes of one base, but not of {base}: name theirs")
    elif not unrelated and not copies and len(seeds) > 2:
        lines.append(_expectation(least_to_largest(squares)))
    return lines


def least_to_largest(squares: Mapping[str, Squares]) -> float:
    """Return the least distance between two of at least three seeds, divided by the largest.

    It is 0.65 for the quickstart's eight experts, which merge well, but are made to.

    Source:
        arXiv 2604.14969, App. J.
    """
    between = total(squares)[FIRST_SEED:, FIRST_SEED:]
    pairs = between[np.triu_indices(len(between), 1)]
    return float(np.sqrt(pairs.min() / pairs.max()))


def _expectation(ratio: float) -> str:
    """Return what is known of how well such seeds merge."""
    return (
        f"least / largest distance between seeds: {ratio:.2g}. In the paper (App. J), two families "
        "with 0.05 and 0.10 merged well and two with 0.79 and 0.83 poorly, but one with 0.64 best: "
        "a weak guide"
    )


def _same_weights(first: str, second: str) -> str:
    return f"{second}: has the weights of {first}; leave one of them out"


def _add(squares: dict[str, Squares], path: str, more: Squares) -> None:
    name = module_of(path)
    squares[name] = squares[name] + more if name in squares else more


# ---------------------------------------------------------------------------- the start of a run


def warn_of_seeds(context: RunContext) -> None:
    """Log what a new run should know about its seeds, one line per finding.

    Each seed is compared with the base alone: not all seeds may fit into memory at once.
    """
    base, *seeds = models = name_models(context.config.seeds, context.folders)
    lines = compare_descriptions(models, context.folders, context.config.decode)
    distances, names = [], dict[str, str]()
    for seed, member in zip(seeds, context.seeds, strict=True):
        weights, squares = context.store.get(member), dict[str, Squares]()
        for path, leaf in context.bases[0].items():
            _add(squares, path, squared_distances([leaf, weights[path]]))
        lines += compare_weights([base, seed], squares)
        distances.append(relative_distances(total(squares))[BASE, FIRST_SEED])
        content = content_hash(weights)
        if content in names:
            lines.append(_same_weights(names[content], seed.name))
        names.setdefault(content, seed.name)
    least_and_largest = dict.fromkeys(f"{d:.2g}" for d in (min(distances), max(distances)))
    lines.append(
        f"seeds: {' to '.join(least_and_largest)} of the base's norm away from it; `acdc seeds "
        "check` with these flags compares them with each other"
    )
    for line in lines:
        _log.warning("%s", line)
