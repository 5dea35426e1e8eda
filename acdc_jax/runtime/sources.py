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
from acdc_jax.models.find_model import find_model
from acdc_jax.models.token_order import Order, Rows
from acdc_jax.params import Params
from acdc_jax.runtime.breed import member_id
from acdc_jax.runtime.member_text import keep_text_files
from acdc_jax.runtime.memory_budget import Shapes
from acdc_jax.runtime.seed_models import Folders, load_model, rows_of_base

_NAME = "sources.json"
_BASE = "base"  # in `Sources.orders`


@dataclasses.dataclass(frozen=True)
class Sources:
    """The models that a run started from. The hashes of the seeds are in their recipes.

    Attributes:
        base: Name of the base: an absolute path, or what else `find_model` takes.
        content: The base's `content_hash`.
        seeds: Member id → name of the seed.
        own: Seed → in what its own configuration differs from the members'; see `own_engines`.
            Seeds without a difference are missing.
        orders: "base" or member id → order of its stored rows, of models with another order of
            tokens: ranges, each start, stop.
        base_rows: Rows of the embedding that the base takes from a seed: start, stop, member id.
        seed_rows: Member id → rows that the seed takes from the base instead of its own: each
            start, stop.
    """

    base: str
    content: str
    seeds: Mapping[str, str]
    own: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    orders: Mapping[str, Sequence[Sequence[int]]] = dataclasses.field(default_factory=dict)
    base_rows: Sequence[tuple[int, int, str]] = ()
    seed_rows: Mapping[str, Sequence[Sequence[int]]] = dataclasses.field(default_factory=dict)


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
    members = {member_id(0, i): folder for i, folder in enumerate(folders.seeds)}
    orders = {name: folders.orders.get(f) for name, f in {_BASE: folders.base, **members}.items()}
    sources = Sources(
        folders.names[folders.base],
        content,
        {name: folders.names[folder] for name, folder in members.items()},
        own,
        {name: order for name, order in orders.items() if order},
        [(*rows, member_id(0, folders.seeds.index(source))) for rows, source in folders.base_rows],
        {name: rows for name, f in members.items() if (rows := folders.seed_rows.get(f, ()))},
    )
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
        AcdcError: The folder is gone, or holds another model now; or a seed is gone that has rows
            of the embedding that the base lacks.
    """
    folder = _folder("the base", sources.base)
    owners = {name: seed_folder(sources, name) for _, _, name in sources.base_rows}
    stored = {path: hf.read_config(path) for path in (folder, *owners.values())}
    rows = [(Rows(start, stop), owners[name]) for start, stop, name in sources.base_rows]
    orders = {owners[name]: order_of_rows(sources, name) for name in owners}
    orders[folder] = order_of_rows(sources, _BASE)
    folders = Folders(folder, (), model, stored, orders=orders, base_rows=rows)
    weights = load_model(folders, folder, shapes)
    _check_content("the base", folder, weights, sources.content)
    return weights


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
        base: Loads the base, from which come the rows of the embedding that the seed lacks; called
            only if it lacks any.

    Raises:
        AcdcError: The folder is gone, or holds another model now.
    """
    folder = seed_folder(sources, recipe.id)
    stored = {folder: hf.read_config(folder)}
    rows = {folder: [Rows(*rows) for rows in sources.seed_rows.get(recipe.id, ())]}
    orders = {folder: order_of_rows(sources, recipe.id)}
    folders = Folders(folder, (folder,), model, stored, orders=orders, seed_rows=rows)
    filler = base() if rows_of_base(folders, folder) else None
    weights = load_model(folders, folder, shapes, filler)
    _check_content(recipe.id, folder, weights, recipe.content)
    return weights


def order_of_rows(sources: Sources, name: str) -> Order:
    """Return the order of the rows of the base or of a seed; () if it is as stored."""
    return tuple(Rows(*rows) for rows in sources.orders.get(name, ()))


def seed_folder(sources: Sources, seed: str) -> Path:
    """Return the folder of a seed.

    Raises:
        AcdcError: It is gone.
    """
    return _folder(seed, sources.seeds[seed])


def _folder(member: str, name: str) -> Path:
    try:
        return find_model(name)
    except AcdcError:
        raise AcdcError(f"{name}: {member} of the run is gone; put it back") from None


def _check_content(name: str, folder: Path, weights: Params, content: str) -> None:
    if (actual := content_hash(weights)) != content:
        raise AcdcError(
            f"{folder}: is not {name} of the run any more (it hashes to {actual}, not {content}); "
            "put that back"
        )
