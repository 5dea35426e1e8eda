"""Whole generations of random members: the run's own loop, groups, store and sandbox."""

import contextlib
import dataclasses
import gc
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from anyio.from_thread import start_blocking_portal

from acdc_jax.bench.limits import compilations
from acdc_jax.bench.scale.settings import MERGE_STREAMS, Figure, ScaleBench
from acdc_jax.bench.scale.workload import Workload, as_text
from acdc_jax.bench.weights import random_weights
from acdc_jax.coevolve import step
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.evaluate import Evaluator
from acdc_jax.evolution import dns
from acdc_jax.evolution.mutate import MutationOptions
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.memory import choose_population, weight_bytes
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings, sharded_param_shapes
from acdc_jax.params import Params
from acdc_jax.run_options import RunOptions, SandboxOptions
from acdc_jax.runtime.backends import Backends
from acdc_jax.runtime.breed import member_id, propose_children, seed_recipe
from acdc_jax.runtime.generation import Generation
from acdc_jax.runtime.member_files import HOST_MEMORY
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import Budget, Shapes, choose_budget
from acdc_jax.runtime.setup import RunContext, make_operators
from acdc_jax.runtime.state import State
from acdc_jax.sandbox import Sandbox
from acdc_jax.sharding import make_mesh, pop_groups
from acdc_jax.tasks.adapt import TaskGenerator
from acdc_jax.tasks.embeddings import NGrams, TaskIndex
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Scientist
from acdc_jax.tasks.task import CheckedDraft, Rejection

_PARTS = ("store", "merge", "mutate", "check", "decode", "scoring")  # as in the run's metrics


def run_config(bench: ScaleBench, sandbox: SandboxOptions, folder: Path) -> Config:
    """The flags of the run that is timed: the paper's operators, and tasks that stay."""
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


def engine_of(config: Config, model: ModelConfig, workload: Workload) -> Engine:
    """Decodes the workload; nothing ends before its prescribed length."""
    return Engine(
        model,
        workload.prompts.__getitem__,
        as_text,
        (model.vocab_size,),  # never drawn
        0,
        config.decode.max_new_tokens,
        config.decode.batch_size,
        longest=workload.response_lengths.__getitem__,
    )


class _IdleScientist(Scientist):
    """Writes nothing: the tasks of the benchmark stay."""

    async def write(self, *args: object) -> list[CheckedDraft | Rejection]:
        """Raise NotImplementedError."""
        raise NotImplementedError


@contextlib.contextmanager
def open_backends() -> Iterator[Backends]:
    """Open backends that need no server and no model."""
    with start_blocking_portal("asyncio") as portal:
        yield Backends(portal, _IdleScientist(), TaskIndex(NGrams()), None)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A generation's wall seconds, and those of its parts."""

    wall: float
    parts: dict[str, float]


def measure(
    config: Config,
    model: ModelConfig,
    workload: Workload,
    sandbox: Sandbox,
    backends: Backends,
    spec: str,
    devices: int,
) -> Iterator[str | Measured]:
    """Times one generation after another that compiles; yields lines, and the figures at last.

    Args:
        config: flags.
        model: shape of the members.
        workload: what they answer.
        sandbox: where that is scored.
        backends: of the run.
        spec: of the mesh.
        devices: how many of the devices, the first ones.

    Raises:
        AcdcError: the members do not fit into the memory and the disk that they may take.
    """
    folder = Path(config.run.run_dir) / spec.replace(":", "").replace(",", "-")
    mesh = make_mesh(spec, jax.devices()[:devices])
    began = time.perf_counter()
    context, state = _start(config, model, workload, sandbox, backends, mesh, folder)
    yield f"generation on {spec}: random members made in {time.perf_counter() - began:.1f} s"

    few = dataclasses.replace(config.run, children=context.evaluator.members_at_once)
    less = dataclasses.replace(context, config=dataclasses.replace(config, run=few))
    with compilations() as compiled:
        state, first = _generation(less, state)
        _compile_rest(context, state)
    yield (
        f"generation on {spec}: the first, of {few.children} children, {first.wall:.1f} s; "
        f"{compiled.count} functions compiled in {compiled.seconds:.1f} s of all threads together"
    )
    with compilations() as compiled:
        state, measured = _generation(context, state)
    if compiled.count:
        yield f"generation on {spec}: {compiled.count} functions compiled in what follows"
    del context, less, state
    gc.collect()  # the next mesh needs the memory
    shutil.rmtree(folder, ignore_errors=True)
    yield measured


def _start(
    config: Config,
    model: ModelConfig,
    workload: Workload,
    sandbox: Sandbox,
    backends: Backends,
    mesh: jax.sharding.Mesh,
    folder: Path,
) -> tuple[RunContext, State]:
    """A context with random members, about half of whose answers are right."""
    wanted = [sharded_param_shapes(part, model) for part in pop_groups(mesh)]
    there = param_shardings(pop_groups(mesh)[0], model, population=False)
    base = jax.block_until_ready(jax.device_put(random_weights(model, 0), there))
    budget = choose_budget(config.run.device_budget_gb, config.run.host_budget_gb, wanted[0])
    folder.mkdir(parents=True)
    _check_room(config, budget, wanted[0], folder)
    engine = engine_of(config, model, workload)
    store = MemberStore(folder / "members", wanted, budget)
    recipes = {}
    for number in range(config.run.population):
        name = member_id(0, number)
        weights = jax.device_put(random_weights(model, 1 + number), there)
        recipes[name] = seed_recipe(name, weights)
        store.put(recipes[name], weights)
        del weights  # before the next one comes
    tasks = {task.id: task for task in workload.tasks}
    coins = np.random.default_rng(0).integers(0, 2, (len(recipes), len(tasks)), np.int8)
    groups = DeviceGroups.of_mesh(mesh)
    share = -(-config.run.children // groups.count)
    population, _ = choose_population(model, share, groups.local[0].mesh.size)
    engine = dataclasses.replace(engine, population=population)
    room = budget.members_on_host(wanted[0]) - config.run.population
    bases = groups.copies(base, model)
    _take_host_memory(groups, bases, max(min(room, config.run.children), 0))
    context = RunContext(
        config=config,
        evaluator=Evaluator(
            groups, engine, sandbox, config.tasks.instances_per_task, config.tasks.skill_threshold
        ),
        task_generator=TaskGenerator(
            config.tasks,
            backends.scientist,
            NoveltyFilter(backends.task_index, config.novelty.threshold),
            sandbox,
            engine.encode,
            model.max_positions - engine.max_new_tokens,
        ),
        portal=backends.portal,
        families=(),
        operators=make_operators(config, model, len(recipes)),
        bases=bases,
        seeds={},
        store=store,
        progress=lambda step, done, total, note="": None,
    )
    state = State(
        generation=0,
        archive=tuple(recipes),
        recipes=recipes,
        skills=SkillMatrix(tuple(recipes), tuple(tasks), coins),
        pool=Pool(tuple(tasks), {}, len(tasks)),
        library=Library(tasks),
        strategy=None,
        kept={},
    )
    return context, state


def _take_host_memory(groups: DeviceGroups, bases: Sequence[Params], members: int) -> None:
    """Has memory page-locked that children come to, once and not in the generation that is timed.

    A run takes it in its first generations. The system hands out pages more slowly than any link,
    and meanwhile lets no device of the process do anything else.
    """
    copies = []
    for group, base in zip(groups.local, bases, strict=True):
        here = {path: leaf.sharding.with_memory_kind(HOST_MEMORY) for path, leaf in base.items()}
        copies += [jax.device_put(base, here) for _ in groups.share(group, range(members))]
    jax.block_until_ready(copies)


def _check_room(config: Config, budget: Budget, wanted: Shapes, folder: Path) -> None:
    """Refuses to start where a generation would not end."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in wanted.values())
    needed = config.run.population + config.run.children
    host, disk = budget.members_on_host(wanted), int(shutil.disk_usage(folder).free // size)
    if host + disk < needed:
        raise AcdcError(
            f"an archive and its children are {needed} members of {size / 1e9:.1f} GB, but "
            f"{host} fit into the host's memory and {disk} on the disk of {folder}; raise "
            "--host_budget_gb, give another --folder, or lower --archive or --children"
        )


def _generation(context: RunContext, state: State) -> tuple[State, Measured]:
    """One generation of the run, until all copies of what the archive keeps are made."""
    began = time.perf_counter()
    generation = Generation(context, state.generation + 1)
    state, record = generation.finish(step(generation, state))
    context.store.retain(state.archive)
    jax.block_until_ready(jax.live_arrays())
    wall = time.perf_counter() - began
    if missing := record.metrics["missing_scores"]:
        raise AcdcError(f"{missing:.0f} responses were not scored: the sandbox failed")
    metrics = record.metrics
    parts = {part: metrics[f"{part}_s"] for part in _PARTS}
    parts |= {"selection": metrics["seconds_selection"], "copies": wall - metrics["seconds"]}
    return state, Measured(wall, parts | {"the rest": wall - sum(parts.values())})


def _compile_rest(context: RunContext, state: State) -> None:
    """Compiles what depends on the number of children, which were fewer."""
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
    spec: str,
    measured: Measured,
    alone: float | None,
    devices: int,
    config: Config,
    model: ModelConfig,
    workload: Workload,
    groups: int,
    copy: float,
    link: float,
) -> list[Figure]:
    """Rows of the table.

    Args:
        spec: of the mesh.
        measured: what it took.
        alone: seconds of one device, where they were measured.
        devices: of the mesh.
        config: flags.
        model: shape of the members.
        workload: what they answered.
        groups: of devices.
        copy: bytes per second that a device reads and writes.
        link: bytes per second from the host to a device.
    """
    wall, parts = measured.wall, measured.parts
    share = devices // groups
    each = -(-config.run.children // groups)  # children that one group makes, one after the other
    size = weight_bytes(model) / share
    written = config.run.children * workload.tokens
    scaling = "" if alone is None else f"{alone / wall:.2f} ×, {alone / wall / devices:.0%}"
    least = {
        "merge": f"{each * MERGE_STREAMS * size / copy:.2f} s: copy",
        "store": f"{each * 2 * size / link:.2f} s: link, parents",
    }
    return [
        Figure(
            f"generation, {config.run.children} children, {len(workload.tasks)} tasks",
            spec,
            f"{wall:.1f} s",
            scaling,
            f"{written / wall:,.0f} tok/s written",
        ),
        *(
            Figure(f"  {part}", spec, f"{seconds:.2f} s", "", least.get(part, ""))
            for part, seconds in parts.items()
        ),
    ]
