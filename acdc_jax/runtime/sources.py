"""`sources.json` of a run: where its base and seeds are, so that members can be rebuilt."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.files import write_atomic
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models import hf
from acdc_jax.models.config import ModelConfig
from acdc_jax.params import Params
from acdc_jax.runtime.breed import member_id
from acdc_jax.runtime.memory_budget import Shapes
from acdc_jax.runtime.seed_models import Folders, keep_text_files, load_model

_NAME = "sources.json"


@dataclasses.dataclass(frozen=True)
class Sources:
    """The models that a run started from. The hashes of the seeds are in their recipes.

    Attributes:
        base: Absolute path of the base's folder.
        content: The base's `content_hash`.
        seeds: Member id → absolute path of the seed's folder.
        own: Seed → in what its own configuration differs from the members'; see `own_engines`.
            Seeds without a difference are missing.
    """

    base: str
    content: str
    seeds: Mapping[str, str]
    own: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


def keep_model_files(
    run_dir: Path, folders: Folders, config: DecodeOptions, stop_tokens: Sequence[int]
) -> None:
    """Write tokenizer and configuration to `model/`, so that exports do not need the seeds."""
    target = run_dir / "model"
    if not target.exists():
        scratch = run_dir / "model.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        keep_text_files(folders.seeds[0], config, stop_tokens, scratch)
        fields = json.dumps(dataclasses.asdict(folders.model), indent=1)
        (scratch / "acdc_model.json").write_text(fields, encoding="utf-8")
        scratch.replace(target)


def keep_sources(
    run_dir: Path,
    folders: Folders,
    base: Params,
    own: Mapping[str, Sequence[str]],
    *,
    started: bool,
) -> None:
    """Write `sources.json`. Folders may move, but the base must stay the same.

    Args:
        run_dir: The run directory.
        folders: Folders of the base and of the seeds.
        base: The base's weights.
        own: Seed → in what its own configuration differs from the members'.
        started: Whether the run has a committed generation.

    Raises:
        AcdcError: The run was started with another base.
    """
    content = content_hash(base)
    if started and (expected := read_sources(run_dir).content) != content:
        raise AcdcError(
            f"{folders.base}: is not the base that {run_dir} was started with (it hashes to "
            f"{content}, not {expected}); put that back, or start a new run"
        )
    seeds = {member_id(0, i): str(folder.resolve()) for i, folder in enumerate(folders.seeds)}
    sources = Sources(str(folders.base.resolve()), content, seeds, own)
    write_atomic(run_dir / _NAME, json.dumps(dataclasses.asdict(sources), indent=1))


def read_sources(run_dir: Path) -> Sources:
    """Return what `keep_sources` wrote.

    Raises:
        AcdcError: The file is missing or damaged.
    """
    path = run_dir / _NAME
    try:
        return Sources(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AcdcError(
            f"{path}: is missing or damaged ({error}); restore it from a copy"
        ) from None


def load_base(sources: Sources, model: ModelConfig, shapes: Shapes) -> Params:
    """Load the base from where the run found it.

    Args:
        sources: Of the run.
        model: The architecture of all members.
        shapes: Path → shape, dtype and sharding of its weights.

    Raises:
        AcdcError: The folder is gone, or holds another model now.
    """
    return _load("the base", sources.base, sources.content, sources, model, shapes)


def load_seed(
    recipe: Recipe,
    sources: Sources,
    model: ModelConfig,
    shapes: Shapes,
    base: Callable[[], Params],
) -> Params:
    """Load a seed from where the run found it; see `load_base`.

    Args:
        recipe: Of the seed.
        sources: Of the run.
        model: The architecture of all members.
        shapes: Path → shape, dtype and sharding of its weights.
        base: Loads the base, which fills missing rows of the embedding; called only if there are.

    Raises:
        AcdcError: The folder is gone, or holds another model now.
    """
    folder = sources.seeds[recipe.id]
    return _load(recipe.id, folder, recipe.content, sources, model, shapes, base)


def _load(
    name: str,
    folder: str,
    content: str,
    sources: Sources,
    model: ModelConfig,
    shapes: Shapes,
    base: Callable[[], Params] | None = None,
) -> Params:
    if not Path(folder).is_dir():
        raise AcdcError(f"{folder}: {name} of the run is gone; put it back")
    stored = hf.read_config(folder)
    folders = Folders(Path(sources.base), (), model, {Path(folder): stored})
    filler = base() if base is not None and stored.vocab_size < model.vocab_size else None
    weights = load_model(folders, Path(folder), shapes, filler)
    if (actual := content_hash(weights)) != content:
        raise AcdcError(
            f"{folder}: is not {name} of the run any more (it hashes to {actual}, not {content}); "
            "put that back"
        )
    return weights
