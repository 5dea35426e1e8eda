"""Time whole generations of random members, with the loop, store and sandbox of a run."""

import contextlib
import dataclasses
import gc
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from anyio.from_thread import start_blocking_portal

from acdc_jax.bench.limits import compilations
from acdc_jax.bench.scale.settings import MERGE_STREAMS, DeviceRates, Figure, MeshSpec, ScaleBench
from acdc_jax.bench.scale.workload import Workload, as_text
from acdc_jax.bench.weights import random_weights
from acdc_jax.coevolve import step
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evolution import dns
from acdc_jax.evolution.mutate import MutationOptions
from acdc_jax.evolution.operators import propose_children
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.memory import choose_population, weight_bytes
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.params import Params
from acdc_jax.run_options import RunOptions, SandboxOptions
from acdc_jax.runtime.backends import Backends
from acdc_jax.runtime.breed import member_id, seed_recipe
from acdc_jax.runtime.generation import Generation
from acdc_jax.runtime.member_files import HOST_MEMORY
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import Budget, Shapes, choose_budget
from acdc_jax.runtime.seed_models import Folders
from acdc_jax.runtime.setup import RunContext, make_operators
from acdc_jax.runtime.state import State
from acdc_jax.sandbox import Sandbox
from acdc_jax.sharding import make_mesh
from acdc_jax.tasks.adapt import TaskGenerator
from acdc_jax.tasks.embeddings import NGrams, TaskIndex
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Scientist
from acdc_jax.tasks.task import CheckedDraft, Rejection

_PARTS = ("store", "breed", "decode", "scoring")  # as in the run's metrics


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What a generation does, on any mesh.

    Attributes:
        config: The run's options.
        model: Shape of the members.
        workload: What the members answer.
    """

    config: Config
    model: ModelConfig
    workload: Workload


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall seconds of a generation.

    Attributes:
        wall: All of it.
        parts: Part → seconds; they add up to `wall`.
    """

    wall: float
    parts: dict[str, float]


def run_config(bench: ScaleBench, sandbox: SandboxOptions, folder: Path) -> Config:
    """Return the options of the run: the paper's operators, and a pool that does not change."""
    return Config(
        run=RunOptions(
            run_dir=str(folder),
            population=bench.archive,
            children=bench.children,
            device_budget_gb=bench.device_budget_gb,
            host_budget_gb=bench.host_budget_gb,
            gibberish_filter=False,
        ),
        mutation=MutationOptions(rank=bench.rank, embeddings=False),
        tasks=TaskPoolOptions(task_interval=None),
        decode=DecodeOptions(max_new_tokens=bench.longest_response, batch_size=bench.slots),
        sandbox=sandbox,
    )


class _IdleScientist(Scientist):
    """Writes nothing, because the pool does not change."""

    async def write(self, *args: object) -> list[CheckedDraft | Rejection]:
        """Raise NotImplementedError."""
        raise NotImplementedError


@contextlib.contextmanager
def open_backends() -> Iterator[Backends]:
    """Open backends that need no server and no model."""
    with start_blocking_portal("asyncio") as portal:
        yield Backends(portal, _IdleScientist(), TaskIndex(NGrams()), None)


def measure(
    scenario: Scenario, mesh: MeshSpec, sandbox: Sandbox, backends: Backends
) -> Iterator[str | Timing]:
    """Time a generation, after another one that compiles.

    Args:
        scenario: What a generation does.
        mesh: Devices that it runs on.
        sandbox: Where responses are scored.
        backends: Scientist, judge and embeddings of the run.

    Yields:
        Lines for the log, and at last the timing.

    Raises:
        AcdcError: The members do not fit into the memory and the disk that they may take.
    """
    folder = Path(scenario.config.run.run_dir) / mesh.text.replace(":", "").replace(",", "-")
    start = time.perf_counter()
    context, state = _open_run(scenario, mesh, sandbox, backends, folder)
    yield f"generation on {mesh.text}: random members made in {time.perf_counter() - start:.1f} s"

    children = context.evaluator.members_at_once  # as few as compile the programs
    run = dataclasses.replace(scenario.config.run, children=children)
    config = dataclasses.replace(scenario.config, run=run)
    with compilations() as compiled:
        state, first = _time_generation(dataclasses.replace(context, config=config), state)
        _compile_selection(context, state)
    yield (
        f"generation on {mesh.text}: the first, of {children} children, {first.wall:.1f} s; "
        f"{compiled.count} functions compiled in {compiled.seconds:.1f} s, summed over all threads"
    )
    with compilations() as compiled:
        state, timing = _time_generation(context, state)
    if compiled.count:
        yield f"generation on {mesh.text}: {compiled.count} functions compiled while it was timed"
    del context, state
    gc.collect()  # the next mesh needs the memory
    shutil.rmtree(folder, ignore_errors=True)
    yield timing


def _open_run(
    scenario: Scenario, mesh: MeshSpec, sandbox: Sandbox, backends: Backends, folder: Path
) -> tuple[RunContext, State]:
    """Return the context and the state of a run whose archive has random weights and skills."""
    config, model = scenario.config, scenario.model
    groups = DeviceGroups.of_mesh(make_mesh(mesh.text, jax.devices()[: mesh.devices]))
    shapes = [sharded_param_shapes(group.mesh, model) for group in groups.local]
    base = jax.block_until_ready(_random_member(shapes[0], model, 0))
    budget = choose_budget(config.run.device_budget_gb, config.run.host_budget_gb, shapes[0])
    folder.mkdir(parents=True)
    _check_room(config, budget, shapes[0], folder)
    store = MemberStore(folder / "members", shapes, budget)
    recipes = {}
    for number in range(config.run.population):
        name = member_id(0, number)
        weights = _random_member(shapes[0], model, 1 + number)
        recipes[name] = seed_recipe(name, weights)
        store.put(recipes[name], weights)
        del weights  # before the next one is made
    bases = groups.copies(base, model)
    room = budget.members_on_host(shapes[0]) - config.run.population
    _allocate_pinned_memory(groups, bases, max(min(room, config.run.children), 0))
    evaluator = _make_evaluator(scenario, groups, sandbox)
    context = RunContext(
        config=config,
        evaluator=evaluator,
        task_generator=TaskGenerator(
            config.tasks,
            backends.scientist,
            NoveltyFilter(backends.task_index, config.novelty.threshold),
            sandbox,
            evaluator.engine.encode,
            model.max_positions - config.decode.max_new_tokens,
        ),
        portal=backends.portal,
        families=(),
        checked={},
        operators=make_operators(config, model, len(recipes)),
        bases=bases,
        folders=Folders(folder, (), model, {}),
        seeds={},
        store=store,
        progress=lambda step, done, total, note="": None,
    )
    return context, _initial_state(recipes, scenario.workload)


def _random_member(shapes: Shapes, model: ModelConfig, seed: int) -> Params:
    shardings = {path: leaf.sharding for path, leaf in shapes.items()}
    weights: Params = jax.device_put(random_weights(model, seed), shardings)
    return weights


def _make_evaluator(scenario: Scenario, groups: DeviceGroups, sandbox: Sandbox) -> Evaluator:
    """Return what evaluates members: an engine whose prompts and responses are the workload's."""
    config, model, workload = scenario.config, scenario.model, scenario.workload
    children = -(-config.run.children // groups.count)  # of a group
    population, _ = choose_population(model, children, groups.local[0].mesh.size)
    engine = Engine(
        model=model,
        encode=workload.prompts.__getitem__,
        decode=as_text,
        stop_tokens=(model.vocab_size,),  # never sampled: no response ends early
        pad_token=0,
        max_new_tokens=config.decode.max_new_tokens,
        batch_size=config.decode.batch_size,
        population=population,
        longest=workload.response_lengths.__getitem__,
    )
    tasks = config.tasks
    return Evaluator(groups, engine, sandbox, tasks.instances_per_task, tasks.skill_threshold)


def _initial_state(recipes: Mapping[str, Recipe], workload: Workload) -> State:
    """Return a state in which each member solves a random half of the tasks."""
    tasks = {task.id: task for task in workload.tasks}
    solved = np.random.default_rng(0).integers(0, 2, (len(recipes), len(tasks)), np.int8)
    return State(
        generation=0,
        archive=tuple(recipes),
        recipes=recipes,
        skills=SkillMatrix(tuple(recipes), tuple(tasks), solved),
        pool=Pool(tuple(tasks), {}, len(tasks)),
        library=Library(tasks),
        strategy=None,
        kept={},
    )


def _allocate_pinned_memory(groups: DeviceGroups, bases: Sequence[Params], members: int) -> None:
    """Allocate page-locked memory for children now, and not in the generation that is timed.

    A run allocates it once, in its first generations. The system does so more slowly than any link,
    and meanwhile the devices of the process stand still.
    """
    copies = []
    for group, base in zip(groups.local, bases, strict=True):
        on_host = {path: leaf.sharding.with_memory_kind(HOST_MEMORY) for path, leaf in base.items()}
        copies += [jax.device_put(base, on_host) for _ in groups.share(group, range(members))]
    jax.block_until_ready(copies)


def _check_room(config: Config, budget: Budget, shapes: Shapes, folder: Path) -> None:
    """Raise AcdcError if archive and children fit neither into memory nor on the disk."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
    members = config.run.population + config.run.children
    host, disk = budget.members_on_host(shapes), int(shutil.disk_usage(folder).free // size)
    if host + disk < members:
        raise AcdcError(
            f"archive and children are {members} members of {size / 1e9:.1f} GB, but {host} fit "
            f"into host memory and {disk} on the disk of {folder}; raise --host_budget_gb, name "
            "another disk with --folder, or lower --archive or --children"
        )


def _time_generation(context: RunContext, state: State) -> tuple[State, Timing]:
    """Run one generation, until all copies of what the archive keeps are made."""
    start = time.perf_counter()
    generation = Generation(context, state.generation + 1)
    state, record = generation.finish(step(generation, state))
    context.store.retain(state.archive)
    jax.block_until_ready(jax.live_arrays())
    wall = time.perf_counter() - start
    metrics = record.metrics
    if missing := metrics["missing_scores"]:
        raise AcdcError(
            f"{missing:.0f} responses have no score, because the sandbox failed; "
            "`acdc sandbox check` says why"
        )
    parts = {part: metrics[f"{part}_s"] for part in _PARTS}
    parts |= {"selection": metrics["seconds_selection"], "copies": wall - metrics["seconds"]}
    return state, Timing(wall, parts | {"the rest": wall - sum(parts.values())})


def _compile_selection(context: RunContext, state: State) -> None:
    """Compile what depends on the number of children: the first generation has fewer."""
    run = context.config.run
    fitness = dns.fitness(state.skills.values)
    names = [member_id(2, c) for c in range(run.children)]
    propose_children(context.operators, state.archive, fitness, names, 2, jax.random.key(0))
    candidates = len(state.archive) + run.children
    dns.select(
        np.zeros((candidates, len(state.skills.tasks)), np.int8),
        run.population,
        options=context.config.selection,
    )


def figures(
    scenario: Scenario,
    mesh: MeshSpec,
    timing: Timing,
    one_device: float | None,
    limits: DeviceRates,
) -> list[Figure]:
    """Return the rows of a generation and its parts.

    Args:
        scenario: What the generation did.
        mesh: Devices that it ran on.
        timing: How long it took.
        one_device: Seconds that it takes on one device, if that was measured.
        limits: What the parts are compared with.
    """
    wall, children = timing.wall, scenario.config.run.children
    children_of_group = -(-children // mesh.groups)  # made one after the other
    size = weight_bytes(scenario.model) / (mesh.devices // mesh.groups)  # on each device
    tokens = children * scenario.workload.tokens
    scaling = ""
    if one_device is not None:
        scaling = f"{one_device / wall:.2f} ×, {one_device / wall / mesh.devices:.0%}"
    least = {
        "breed": f"{children_of_group * MERGE_STREAMS * size / limits.copy:.2f} s: copy",
        "store": f"{children_of_group * 2 * size / limits.link:.2f} s: link, parents",
    }
    return [
        Figure(
            f"generation, {children} children, {len(scenario.workload.tasks)} tasks",
            mesh.text,
            f"{wall:.1f} s",
            scaling,
            f"{tokens / wall:,.0f} tok/s written",
        ),
        *(
            Figure(f"  {part}", mesh.text, f"{seconds:.2f} s", "", least.get(part, ""))
            for part, seconds in timing.parts.items()
        ),
    ]
