"""`acdc export RUN MEMBER OUT`: write a member as a Hugging Face folder."""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from acdc_jax import checkpoint
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolve.budget import Shapes, choose_budget
from acdc_jax.evolve.content import content_hash
from acdc_jax.evolve.member import check_member, load_member, on_disk
from acdc_jax.evolve.merge import module_groups
from acdc_jax.evolve.recipe import Recipe
from acdc_jax.evolve.replay import rebuild, to_make
from acdc_jax.model import hf
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import Weights
from acdc_jax.models import Folders, load_model
from acdc_jax.sharding import make_mesh, pop_groups
from acdc_jax.sources import Sources, read_sources
from acdc_jax.world import fitting_mesh, member_shapes

_HELP = """acdc export RUN MEMBER OUT: write a member of a run as a Hugging Face folder.

transformers' AutoModelForCausalLM and AutoTokenizer, and vLLM, load the folder as it is.
MEMBER is an id such as g012-m03; `acdc run` prints the task force, and RUN/results.json lists it.

Every member that the run ever made can be written. One that is no longer on disk is made again:
its ancestors' recipes are replayed, from the seeds if need be, and each is compared with the hash
that was taken when it was made. The result is the same bit for bit on the same kind of device
(number of devices included) and the same version of jax; where it is not, nothing is written.
"""


def command(argv: Sequence[str]) -> None:
    """Runs `acdc export`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP, end="")
        return
    if len(argv) != 3:
        raise ConfigError("usage: acdc export RUN MEMBER OUT")
    run_dir, member, out = Path(argv[0]), argv[1], Path(argv[2])
    manifest = checkpoint.read_manifest(run_dir)
    recipes = checkpoint.read_recipes(run_dir, manifest.generation)
    if member not in recipes:
        known = checkpoint.retained(manifest)
        raise AcdcError(f"{run_dir} never had a member {member!r}; it has {_some(known)}")
    hf.check_vacant(out)
    config, model = Config.from_settings(manifest.flags), read_model(run_dir)
    wanted = member_shapes(_mesh(config, model), model)
    if on_disk(run_dir / "members" / member):
        weights, how = _read(run_dir, recipes[member], wanted), ""
    else:
        weights, made = _rebuild(run_dir, member, recipes, config, model, wanted, out)
        how = f" (rebuilt, with {made - 1} of its ancestors)"
    hf.save(out, model, weights, tokenizer_from=run_dir / "model")
    print(
        f"{out}: {member} written{how}; "
        f"load it with AutoModelForCausalLM.from_pretrained({str(out)!r})"
    )


def read_model(run_dir: Path) -> ModelConfig:
    """The architecture of a run's members.

    Raises:
        AcdcError: the run has no readable description of it.
    """
    path = run_dir / "model" / "acdc_model.json"
    try:
        return ModelConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def _mesh(config: Config, model: ModelConfig) -> jax.sharding.Mesh:
    """A group of the run's mesh, so that it rounds as the run did; one device where none fits."""
    try:
        return pop_groups(fitting_mesh(config, model))[0]
    except ConfigError:
        return make_mesh("model:1", jax.devices()[:1])


def _read(run_dir: Path, recipe: Recipe, wanted: Shapes) -> Weights:
    """A member that is on disk, if it is what its recipe says."""
    folder = run_dir / "members" / recipe.id
    weights, _ = load_member(folder, wanted)
    check_member(folder, weights, recipe)
    return weights


def _rebuild(
    run_dir: Path,
    member: str,
    recipes: Mapping[str, Recipe],
    config: Config,
    model: ModelConfig,
    wanted: Shapes,
    out: Path,
) -> tuple[Weights, int]:
    """A member that is not on disk, and how many had to be made for it."""
    sources = read_sources(run_dir)
    base = _source("the base", sources.base, sources.content, sources, model, wanted)
    given: dict[str, Callable[[], Weights]] = {
        name: functools.partial(_read, run_dir, recipe, wanted)
        for name, recipe in recipes.items()
        if on_disk(run_dir / "members" / name)
    }
    for name, folder in sources.seeds.items():
        given.setdefault(
            name,
            functools.partial(
                _source, name, folder, recipes[name].content, sources, model, wanted, base
            ),
        )
    _, group_of = module_groups(wanted, config.evolve.granularity)  # type: ignore[arg-type]
    budget = choose_budget(config.run.device_budget_gb, config.run.host_budget_gb, wanted)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".acdc-") as scratch:
        weights = rebuild(member, recipes, base, given, group_of, wanted, Path(scratch), budget)
    return weights, len(to_make(member, recipes, given))


def _source(
    name: str,
    folder: str,
    content: str,
    sources: Sources,
    model: ModelConfig,
    wanted: Shapes,
    base: Weights | None = None,
) -> Weights:
    """The base or a seed, from where the run found it."""
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


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[-8:])
    return shown if len(names) <= 8 else f"{len(names)} members on disk, the latest {shown}"
