"""`sources.json` of a run: where the base and the seeds are, so that members can be made again."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
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
    """The models that a run started from. What the seeds must contain is in their recipes.

    Attributes:
        base: absolute path of the base's folder.
        content: the base's `content_hash`.
        seeds: member id → absolute path of the seed's folder.
    """

    base: str
    content: str
    seeds: Mapping[str, str]


def keep_model_files(
    run_dir: Path, folders: Folders, config: DecodeOptions, stop_tokens: Sequence[int]
) -> None:
    """Write `model/`: tokenizer and configuration, so that a run is exported without its seeds."""
    target = run_dir / "model"
    if not target.exists():
        scratch = run_dir / "model.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        keep_text_files(folders.seeds[0], config, stop_tokens, scratch)
        fields = json.dumps(dataclasses.asdict(folders.model), indent=1)
        (scratch / "acdc_model.json").write_text(fields, encoding="utf-8")
        scratch.replace(target)


def keep_sources(run_dir: Path, folders: Folders, base: Params, *, started: bool) -> None:
    """Writes `sources.json`; a run that has started goes on only with the base it had.

    Raises:
        AcdcError: the base is another one; the folders may have moved.
    """
    content = content_hash(base)
    if started and (had := read_sources(run_dir).content) != content:
        raise AcdcError(
            f"{folders.base}: is not the base that {run_dir} was started with (it hashes to "
            f"{content}, not {had}); put that back, or start a new run"
        )
    seeds = {member_id(0, i): str(folder.resolve()) for i, folder in enumerate(folders.seeds)}
    sources = Sources(str(folders.base.resolve()), content, seeds)
    write_atomic(run_dir / _NAME, json.dumps(dataclasses.asdict(sources), indent=1))


def read_sources(run_dir: Path) -> Sources:
    """Reads `sources.json`.

    Raises:
        AcdcError: it is missing or damaged.
    """
    path = run_dir / _NAME
    try:
        return Sources(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def load_base(sources: Sources, model: ModelConfig, wanted: Shapes) -> Params:
    """The base, from where the run found it.

    Args:
        sources: of the run.
        model: the members' architecture.
        wanted: path → shape, dtype and sharding of its weights.

    Raises:
        AcdcError: it is not there any more, or another one is.
    """
    return _load("the base", sources.base, sources.content, sources, model, wanted)


def load_seed(
    recipe: Recipe, sources: Sources, model: ModelConfig, wanted: Shapes, base: Params
) -> Params:
    """A seed, from where the run found it; see `load_base`."""
    folder = sources.seeds[recipe.id]
    return _load(recipe.id, folder, recipe.content, sources, model, wanted, base)


def _load(
    name: str,
    folder: str,
    content: str,
    sources: Sources,
    model: ModelConfig,
    wanted: Shapes,
    base: Params | None = None,
) -> Params:
    if not Path(folder).is_dir():
        raise AcdcError(f"{folder}: {name} of the run is not there any more; put it back")
    stored = {Path(folder): hf.read_config(folder)}
    weights = load_model(Folders(Path(sources.base), (), model, stored), Path(folder), wanted, base)
    if (found := content_hash(weights)) != content:
        raise AcdcError(
            f"{folder}: is not {name} of the run any more (it hashes to {found}, not {content}); "
            "put that back"
        )
    return weights
