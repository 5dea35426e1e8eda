"""The models that a run starts from, checked before anything expensive happens."""

import dataclasses
import functools
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from acdc_jax import plugins
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.files import cache_home
from acdc_jax.models import hf, hf_export, tokenizer
from acdc_jax.models.common_vocabulary import ModelDescription
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.find_model import (
    bytes_to_download,
    describe_other_base,
    find_model,
    lasting_name,
    with_base,
)
from acdc_jax.models.merge_compatibility import (
    CommonModel,
    adapt,
    adapt_rows,
    common_model,
)
from acdc_jax.models.segmentation import Segmentation, segmentation
from acdc_jax.models.token_order import (
    VOCABULARY_LEAVES,
    Order,
    Rows,
    row_indices,
)
from acdc_jax.models.transformer import param_shapes
from acdc_jax.models.weight_files import unread_weights
from acdc_jax.params import Params

Progress = Callable[[str, int, int], None]  # step, done, total
Tell = Callable[[str], None]  # a line

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Folders:
    """Hugging Face folders of the base and of the seeds, which have one architecture.

    Attributes:
        base: Folder of the model that the seeds were tuned from.
        seeds: Folders of the seeds; at least one.
        model: The common architecture.
        stored: Folder → the architecture that its own configuration describes.
        names: Folder → a name by which `find_model` finds it again.
        orders: Folder → order of its stored rows, of models with another order of tokens.
        base_rows: Rows of added tokens that the base takes from seeds, each with the seed's folder.
        seed_rows: Folder of a seed → rows that it takes from the base instead of its own.
    """

    base: Path
    seeds: tuple[Path, ...]
    model: ModelConfig
    stored: Mapping[Path, ModelConfig]
    names: Mapping[Path, str] = dataclasses.field(default_factory=dict)
    orders: Mapping[Path, Order] = dataclasses.field(default_factory=dict)
    base_rows: Sequence[tuple[Rows, Path]] = ()
    seed_rows: Mapping[Path, Sequence[Rows]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SeedSet:
    """A registered set of seed models (see `acdc_jax.plugins`).

    A run checks its flags, its directory and its devices against `model` and `size` before it makes
    the models, which may take long.

    Attributes:
        model: The architecture of the base and of the seeds.
        size: Number of seeds.
        make: `(cache_dir, prng_seed, progress) -> (base folder, seed folders)`. Makes the models
            below `cache_dir`, unless they are there, and calls `progress(step, done, total)`.
    """

    model: ModelConfig
    size: int
    make: Callable[[Path, int, Progress], tuple[Path, Sequence[Path]]]


def write_seed_models(name: str, out: Path, prng_seed: int, progress: Progress) -> list[Path]:
    """Make a registered set of seed models and write it to a folder, all or nothing.

    Args:
        name: Registered name of the set.
        out: Folder to write; it must not exist, or be empty.
        prng_seed: PRNG seed that the models are made from.
        progress: Called as `progress(step, done, total)`.

    Returns:
        The folders in `out`: the base's, then the seeds'.

    Raises:
        AcdcError: There is no such set, or `out` is in use or cannot be written.
    """
    seed_set: SeedSet = plugins.load(plugins.SEED_MODELS, name)
    hf_export.check_vacant(out)
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # On the same volume, so that the last step is a rename.
        with tempfile.TemporaryDirectory(dir=parent, prefix=".acdc-") as scratch:
            base, seeds = seed_set.make(Path(scratch) / "cache", prng_seed, progress)
            complete = Path(scratch) / "complete"
            for folder in (base, *seeds):
                shutil.copytree(folder, complete / folder.name)
            complete.replace(out)
    except OSError as error:
        raise AcdcError(f"{out}: cannot be written ({error.strerror or error})") from error
    return [out / folder.name for folder in (base, *seeds)]


def log_note(note: str) -> None:
    """Log a change that makes models compatible."""
    _log.warning("%s", note)


def check_folders(
    base: str | Path,
    seeds: Sequence[str | Path],
    *,
    adopt_base_config: bool = False,
    dtype: str | None = None,
    fetch_weights: bool = True,
    tell: Tell = log_note,
) -> Folders:
    """Find the models, and refuse those that cannot be merged before any weight is downloaded.

    Args:
        base: Name of the base, as `find_model` takes it.
        seeds: Names of the seeds, at least one; adapters alone are applied to the base.
        adopt_base_config: See `common_model`.
        dtype: Dtype of all members; None: the base's.
        fetch_weights: Whether to download the weights that the cache lacks. Otherwise models are
            described by their configuration, and only weights that are there are looked at.
        tell: Called with a line for each change that makes the models compatible.

    Raises:
        AcdcError: A model is missing, or differs from the base in a field; names it.
    """
    names = (base, *(with_base(seed, base) for seed in seeds))
    for note in (note for seed in seeds if (note := describe_other_base(seed, base))):
        tell(note)
    words: dict[tuple[bytes, ...], tuple[Mapping[str, int], Callable[[], Segmentation]]] = {}

    def describe(name: str | Path, folder: Path, config: ModelConfig) -> ModelDescription:
        files = tokenizer.vocabulary_hashes(folder)
        if files not in words:
            tok = tokenizer.load_tokenizer(folder)
            words[files] = (
                tokenizer.vocabulary(tok),
                functools.cache(functools.partial(segmentation, tok)),
            )
        return ModelDescription(str(name), config, *words[files])

    def agree(
        weights: bool, read: Callable[[Path], ModelConfig]
    ) -> tuple[list[Path], list[ModelConfig], CommonModel]:
        folders = [find_model(name, weights=weights) for name in names]
        configs = [read(folder) for folder in folders]
        models = list(map(describe, names, folders, configs))
        common = common_model(models[0], models[1:], adopt=adopt_base_config, dtype=dtype)
        return folders, configs, common

    complete = fetch_weights or all(bytes_to_download(name) == 0 for name in names)
    folders, configs, common = agree(False, hf.declared_config)
    casts = []
    if complete:
        folders, configs, common = agree(True, hf.read_config)
        for name, folder in zip(names, folders, strict=True):
            casts += [f"{name}: {cast}" for cast in hf.describe_casts(folder, common.config)]
            if unread := unread_weights(folder):
                casts.append(f"{name}: has other weights, too, which are not read: {unread[0]}")
    for note in dict.fromkeys([*common.notes, *casts]):
        tell(note)
    seed_folders = tuple(folders[1:])
    return Folders(
        folders[0],
        seed_folders,
        common.config,
        dict(zip(folders, configs, strict=True)),
        dict(zip(folders, map(lasting_name, names), strict=True)),
        {f: order for f, order in zip(folders, common.orders, strict=True) if order},
        [(rows, seed_folders[number]) for rows, number in common.base_rows],
        dict(zip(seed_folders, common.seed_rows, strict=True)),
    )


def cache_dir(config: Config) -> Path:
    """Return the folder that keeps registered seeds and compiled programs between runs."""
    if config.run.cache_dir:
        return Path(config.run.cache_dir)
    return cache_home()


def load_model(
    folders: Folders,
    folder: Path,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    base: Params | None = None,
) -> Params:
    """Read the base or a seed, leaf by leaf, in the architecture and dtype of all members.

    Args:
        folders: From `check_folders`.
        folder: One of them.
        shapes: Path → shape, dtype and sharding of a member's weights.
        base: The base's weights, from which a seed takes the rows of the embedding that it lacks;
            None for the base itself, and for a seed that lacks none.
    """
    model = folders.model
    stored = dataclasses.replace(folders.stored[folder], dtype=model.dtype)
    order = folders.orders.get(folder, ())
    shardings = {path: leaf.sharding for path, leaf in shapes.items()}
    # A matrix whose rows are cut, added or replaced may not divide evenly among the devices.
    whole = {path: _replicated(shardings[path]) for path in VOCABULARY_LEAVES if path in shardings}
    if base is None:
        borrowed = _rows_of_seeds(folders, whole)
    else:
        borrowed = [
            (rows.start, {path: base[path][slice(*rows)] for path in whole})
            for rows in rows_of_base(folders, folder)
        ]
    rows = _rows(folders, folder)
    if dataclasses.replace(stored, vocab_size=rows) == model and not borrowed:
        return hf.load_weights(folder, stored, shardings, order=order)
    changes = borrowed or rows != model.vocab_size
    where = shardings | whole if changes else shardings
    weights = hf.load_weights(folder, stored, where, order=order)
    return adapt(weights, model, borrowed, shardings)


def stream_models(folders: Folders) -> Iterator[tuple[str, list[jax.Array]]]:
    """Yield each weight of the base and of all seeds, as `load_model` loads them.

    No two weights of a model are on the device at once: each list is emptied before the next one.

    Args:
        folders: From `check_folders`.

    Yields:
        A dotted path, and the weight in the base and in each seed.

    Raises:
        AcdcError: As `hf.load_weights`.
    """
    model = folders.model
    paths = list(param_shapes(model))

    def stream(folder: Path) -> Iterator[jax.Array]:
        stored = dataclasses.replace(folders.stored[folder], dtype=model.dtype)
        own = param_shapes(stored)  # without a head, if that is tied
        names = (path if path in own else "embed.weight" for path in paths)
        return hf.stream_weights(folder, stored, names, folders.orders.get(folder, ()))

    def adapt_seed(leaf: jax.Array, base: jax.Array, seed: Path) -> jax.Array:
        borrowed = ((rows.start, base[slice(*rows)]) for rows in rows_of_base(folders, seed))
        return adapt_rows(leaf, model.vocab_size, borrowed)

    device = SingleDeviceSharding(jax.local_devices()[0])
    rows_of_seeds = _rows_of_seeds(folders, dict.fromkeys(VOCABULARY_LEAVES, device))
    streams = [stream(folder) for folder in (folders.base, *folders.seeds)]
    for path in paths:
        leaves = [next(stream) for stream in streams]
        if path in VOCABULARY_LEAVES:
            borrowed = ((start, rows[path]) for start, rows in rows_of_seeds)
            leaves[0] = adapt_rows(leaves[0], model.vocab_size, borrowed)
            for i, seed in enumerate(folders.seeds, 1):
                leaves[i] = adapt_seed(leaves[i], leaves[0], seed)
        yield path, leaves
        leaves.clear()


def _rows_of_seeds(
    folders: Folders, where: Mapping[str, jax.sharding.Sharding]
) -> list[tuple[int, Params]]:
    """Read the rows that the base takes from seeds; return the first row of each range, and all."""
    borrowed = []
    for rows, seed in folders.base_rows:
        stored = dataclasses.replace(folders.stored[seed], dtype=folders.model.dtype)
        which: slice | np.ndarray = slice(*rows)
        if order := folders.orders.get(seed, ()):
            which = row_indices(order)[which]
        matrices = hf.load_rows(seed, stored, which, where)
        matrices.setdefault("head.weight", matrices["embed.weight"])
        borrowed.append((rows.start, matrices))
    return borrowed


def rows_of_base(folders: Folders, seed: Path) -> list[Rows]:
    """Return all rows that a seed takes from the base, in ascending order."""
    rows, size = _rows(folders, seed), folders.model.vocab_size
    after_last = [Rows(rows, size)] if rows < size else []
    return [*folders.seed_rows.get(seed, ()), *after_last]


def _rows(folders: Folders, folder: Path) -> int:
    """Return the number of rows of a model's embedding, in the common order of tokens."""
    order = folders.orders.get(folder, ())
    return len(row_indices(order)) if order else folders.stored[folder].vocab_size


def _replicated(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """Return the sharding that gives each of the same devices a whole copy."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding
