"""Members of a run, and models beside it, as the harness speaks to them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from acdc_jax.config import DecodeConfig
from acdc_jax.evaluation.lm_eval.lm import Voice
from acdc_jax.evaluation.lm_eval.plan import Plan
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.inference.memory import device_room, weight_bytes
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import decode_layout
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.params import Params
from acdc_jax.runtime.member_files import on_disk, read_member
from acdc_jax.runtime.sources import load_base, load_seed, read_sources
from acdc_jax.sharding import default_mesh, make_mesh, pop_groups

_SAMPLES = Sampling(temperature=0.7)  # the paper's
_HELD_AT_ONCE = 4  # a model as stored and as laid out for decoding, the one before, the cache

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def member_voices(
    run_dir: Path,
    model: ModelConfig,
    recipes: Mapping[str, Recipe],
    seeds: Sequence[Path],
    plan: Plan,
    decode: DecodeConfig,
    key: jax.Array,
) -> Iterator[Voice]:
    """Every model of a plan in turn; weights are read when it is its turn.

    Args:
        run_dir: the run, which has the members on disk.
        model: their architecture.
        recipes: of all members, by id.
        seeds: the seeds' folders, as far as they are still there: their stop tokens count too.
        plan: which models.
        decode: the run's way to decode.
        key: typed PRNG key of the samples.

    Raises:
        AcdcError: a member cannot be read, or is not what its recipe says.
    """
    tok, stops = _speech([run_dir / "model", *seeds])
    groups = _groups(model)
    had, weights = "", tuple[Params, ...]()
    for name in plan.models:
        sampled = plan.sampled.get(name)
        member = sampled.member if sampled else name
        if member != had:  # one that is asked several times stays where it is
            weights = _everywhere(_read(run_dir, recipes[member], model, groups[0]), model, groups)
            had = member
        sampling = _SAMPLES if sampled else None
        own = jax.random.fold_in(key, sampled.number) if sampled else None
        size, thinking = decode.batch_size, decode.thinking
        yield Voice(name, model, weights, tok, stops, size, thinking, sampling, own)


def folder_voice(folder: Path, decode: DecodeConfig) -> Voice:
    """A model in a Hugging Face folder, called after it.

    Raises:
        AcdcError: it cannot be read.
    """
    model = hf.read_config(folder)
    tok, stops = _speech([folder])
    weights = []
    for wanted in _groups(model):
        places = {path: leaf.sharding for path, leaf in wanted.items()}
        weights.append(decode_layout(model, dict(hf.load_weights(folder, model, places))))
    return Voice(
        folder_name(folder), model, weights, tok, stops, decode.batch_size, decode.thinking
    )


def folder_name(folder: Path) -> str:
    """What a model in a folder is called among members; a file may be called that too."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", str(folder.resolve())).strip("_")


def _groups(model: ModelConfig) -> list[Shapes]:
    """Shapes of a model's weights on each group of devices, of which it takes as few as it can."""
    devices = jax.local_devices()
    spec = default_mesh(devices, weight_bytes(model), device_room(), _HELD_AT_ONCE)
    return [sharded_param_shapes(mesh, model) for mesh in pop_groups(make_mesh(spec, devices))]


def _read(run_dir: Path, recipe: Recipe, model: ModelConfig, wanted: Shapes) -> Params:
    """A member that is on disk, or a seed that no archive kept, from where it came."""
    folder = run_dir / "members" / recipe.id
    if not on_disk(folder) and recipe.operator == "seed":
        sources = read_sources(run_dir)
        return load_seed(recipe, sources, model, wanted, load_base(sources, model, wanted))
    return read_member(folder, recipe, wanted)


def _everywhere(
    weights: Params, model: ModelConfig, groups: Sequence[Shapes]
) -> tuple[Params, ...]:
    """A member on each group of devices, as it is decoded."""
    copies = [
        jax.device_put(weights, {path: leaf.sharding for path, leaf in wanted.items()})
        for wanted in groups[1:]
    ]
    return tuple(decode_layout(model, dict(copy)) for copy in (weights, *copies))


def _speech(folders: Sequence[Path]) -> tuple[Any, tuple[int, ...]]:
    """The first folder's tokenizer, and what ends a response in any of them."""
    toks = [tokenizer.load_tokenizer(folder) for folder in folders]
    stops = (tokenizer.stop_tokens(*pair) for pair in zip(folders, toks, strict=True))
    return toks[0], tuple(sorted({token for found in stops for token in found}))
