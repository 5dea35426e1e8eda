"""`acdc run --dry_run`: check a run and say what it will take, without weights.

Everything that can be wrong is looked at as a run looks at it: flags, servers, configurations,
tokenizers, chat template, task families, devices, memory and disk. Nothing is written, and of
models only configurations and tokenizers are downloaded.
"""

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from acdc_jax.bench.limits import copy_bandwidth
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.experiment import is_finished
from acdc_jax.inference.memory import (
    device_room,
    parameter_count,
    token_bytes,
    weight_bytes,
)
from acdc_jax.inference.text_codec import TextCodec
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.find_model import bytes_to_download, split_name, with_base
from acdc_jax.models.hub import hub_cache
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.models.tokenizer import load_tokenizer
from acdc_jax.models.transformer import param_shapes
from acdc_jax.runtime.disk_budget import (
    check_disk,
    existing_parent,
    members_to_write,
    required_bytes,
)
from acdc_jax.runtime.member_files import disk_bytes
from acdc_jax.runtime.memory_budget import bytes_on_device, choose_budget
from acdc_jax.runtime.run_directory import check_directory, check_flags
from acdc_jax.runtime.run_reader import holds_run, read_manifest
from acdc_jax.runtime.seed_descriptions import compare_descriptions, name_models
from acdc_jax.runtime.seed_models import Folders
from acdc_jax.runtime.setup import RunPlan, models_at_once, plan_run
from acdc_jax.sharding import pop_groups
from acdc_jax.tasks.options import LLM_SCIENTISTS

_GIB = 2**30
_COPY_SHARE = 0.75  # of the copy rate, at which decoding reads; measured at the 7B shape
_SHORT = 1 / 4  # of the longest response: the shorter of the two means that times are given for
_PROMPT = 256  # tokens, for the cache's size
_REQUESTS_EACH = 2  # of a draft that is accepted at once: written, and confirmed
_REQUEST_S = (10, 30)  # of one request: 500 tokens at 50 or 17 tokens a second


@dataclasses.dataclass(frozen=True)
class Work:
    """How much a run does.

    Attributes:
        evolution: Responses of its generations.
        afterwards: Responses of the final archive and the seeds to tasks that they have not met, at
            most.
        drafts: Drafts that the scientist writes, if each first one is valid.
    """

    evolution: int
    afterwards: int
    drafts: int


def dry_run(config: Config) -> Mapping[str, str]:
    """Check a run, and return what it will take: topic → text.

    Raises:
        AcdcError: Something is missing or does not fit; as in a run.
        ConfigError: Flags contradict each other, the models or the devices.
    """
    run_dir, generation = Path(config.run.run_dir), -1
    check_directory(run_dir)
    if holds_run(run_dir):
        manifest = read_manifest(run_dir)
        check_flags(run_dir, config, manifest)
        generation = manifest.generation
    if is_finished(config):
        return {"run": f"{run_dir} is finished: the same command only prints its table again"}
    plan = plan_run(config, fetch_weights=False)
    lines = {"models": _models(plan)}
    if isinstance(plan.models, Folders):
        lines["seeds"] = _seeds(plan.models, config)
    lines["tasks"] = _tasks(plan)
    with config.sandbox.open() as sandbox:
        lines["sandbox"] = f"{sandbox.tier}, {config.sandbox.worker_count} workers"
    if plan.codec is not None:
        lines["prompt"] = _prompt(plan, plan.codec)
    lines["servers"] = _servers(config)
    lines["devices"], lines["memory"] = _devices(plan), _memory(plan)
    lines["disk"] = _disk(plan, generation)
    work, left = count_work(config, generation), config.run.generations - max(generation, 0)
    resumed = f" (of {config.run.generations}; the others are committed)" if generation > 0 else ""
    lines["work"] = (
        f"{work.evolution:,} responses in {left} generations{resumed}, up to "
        f"{work.afterwards:,} afterwards, of the last archive and the seeds to tasks that they "
        f"have not met; {work.drafts:,} drafts"
    )
    lines["time"] = _time(plan, work)
    return lines


def count_work(config: Config, generation: int = -1) -> Work:
    """Return how much a run still does, with a full pool and only valid drafts.

    Args:
        config: The run.
        generation: The last committed one; -1 for a new run.
    """
    run, tasks = config.run, config.tasks
    pool = min(tasks.max_tasks, tasks.initial_tasks) or tasks.max_tasks
    past, interval = max(generation, 0), tasks.task_interval
    all_adaptations = run.generations // interval if interval else 0
    adaptations = all_adaptations - (past // interval if interval else 0)
    first = run.init_population * pool if generation < 0 else 0
    children = (run.generations - past) * run.children * pool
    adapted = adaptations * run.population * min(tasks.new_tasks, tasks.max_tasks)
    members = run.population + len(config.seeds.seed_models)
    every = tasks.initial_tasks + all_adaptations * tasks.new_tasks
    return Work(
        (first + children + adapted) * tasks.instances_per_task,
        members * max(every - pool, 0) * tasks.instances_per_task,
        (tasks.initial_tasks if generation < 0 else 0) + adaptations * tasks.new_tasks,
    )


def decode_seconds(
    model: ModelConfig, responses: int, tokens: int, sequences: int, bandwidth: float
) -> float:
    """Return the seconds in which one device decodes responses of one member after the other.

    A step reads all weights, and the cache of each sequence; it is limited by memory.

    Args:
        model: The decoder.
        responses: Number of responses.
        tokens: Mean length of a response.
        sequences: Sequences that decode at once.
        bandwidth: Bytes that the device copies per second, read and written.
    """
    cache = sequences * (_PROMPT + tokens / 2) * token_bytes(model)
    step = (weight_bytes(model) + cache) / (_COPY_SHARE * bandwidth)
    return responses * tokens / sequences * step


def _models(plan: RunPlan) -> str:
    model, one = plan.model, weight_bytes(plan.model)
    text = (
        f"{model.architecture}, {parameter_count(model) / 1e6:,.3g} million parameters in "
        f"{model.dtype}, {one / _GIB:.3g} GiB; {plan.seeds} seeds"
    )
    if not isinstance(plan.models, Folders):
        return f"{text}, made when the run starts"
    options = plan.config.seeds
    base = options.base_model or ""
    names = (base, *(with_base(seed, base) for seed in options.seed_models))
    models = {(split_name(name) or (name,))[0] for name in names}  # without adapters
    missing = sum(map(bytes_to_download, models))
    if not missing:
        return f"{text}; all weights are here"
    cache, free = hub_cache(), shutil.disk_usage(existing_parent(hub_cache())).free
    if free < missing:
        raise AcdcError(
            f"{cache}: {free / _GIB:.1f} GiB are free, but {missing / _GIB:.1f} GiB of weights are "
            "to be downloaded; make room, or set HF_HUB_CACHE to another disk"
        )
    return f"{text}; {missing / _GIB:.1f} GiB to download"


def _seeds(folders: Folders, config: Config) -> str:
    models = name_models(config.seeds, folders)
    differences = compare_descriptions(models, folders, config.decode)
    same = "have the same licence, chat template, special tokens and stop tokens"
    return "; ".join(differences) or same


def _prompt(plan: RunPlan, codec: TextCodec) -> str:
    """Return a prompt as members read it, with its special tokens."""
    assert isinstance(plan.models, Folders)
    tok = load_tokenizer(plan.models.seeds[0])
    return repr(tok.decode(codec.encode("INSTRUCTIONS OF A TASK")))


def _tasks(plan: RunPlan) -> str:
    judged = sum(draft.asks_judge for draft in plan.families)
    untried = f" ({judged} of them ask the judge: not tried)" if judged else ""
    sets = [f"{len(drafts)} held-out tasks ({name})" for name, drafts in plan.held_out.items()]
    measured = ", ".join(sets) or "the run's own tasks"
    return f"{len(plan.families)} seed families{untried}; measured on {measured}"


def _servers(config: Config) -> str:
    options, novelty = config.scientist, config.novelty
    answers = []
    if options.kind == "openai":
        answers.append(f"{options.model} at {options.url or 'OpenAI'} answers")
    if novelty.embeddings == "openai":
        where = novelty.embedding_url or options.url or "OpenAI"
        answers.append(f"{novelty.embedding_model} at {where} answers")
    return "; ".join(answers) or "none needed"


def _devices(plan: RunPlan) -> str:
    devices, groups = plan.mesh.devices.flat, pop_groups(plan.mesh)
    kind, each = next(iter(devices)).device_kind, groups[0].devices.size
    shape = ",".join(f"{axis}:{size}" for axis, size in plan.mesh.shape.items())
    text = f"{plan.mesh.devices.size} x {kind} (--mesh={shape})"
    if len(groups) == 1:
        return text
    return f"{text}: {len(groups)} groups of {each}, each of which decodes members of its own"


def _memory(plan: RunPlan) -> str:
    """Say how many members fit where.

    Raises:
        AcdcError: A group of devices cannot hold what breeding needs.
    """
    config, group = plan.config, pop_groups(plan.mesh)[0]
    shapes = sharded_param_shapes(group, plan.model)
    one, room = bytes_on_device(shapes), device_room()
    needed = models_at_once(config) * one
    if needed > room:
        raise AcdcError(
            f"--mesh={config.run.mesh}: breeding needs {needed / _GIB:.1f} GiB on each device, "
            f"which has {room / _GIB:.1f} GiB; shard members over more devices (model:2)"
        )
    budget = choose_budget(config.run.device_budget_gb, config.run.host_budget_gb, shapes)
    archive = max(config.run.population, config.run.init_population)
    device = min(budget.members_on_device(shapes), archive)
    host = min(budget.members_on_host(shapes), archive)
    return (
        f"a member takes {one / _GIB:.3g} GiB of each device's {room / _GIB:.3g} GiB; all of the "
        f"{archive} members are on disk, and up to {device} of them in the memory of a group's "
        f"devices and {host} in the host's"
    )


def _disk(plan: RunPlan, generation: int) -> str:
    options = plan.config.run
    check_disk(options, plan.model, generation)
    needed = required_bytes(options, plan.model, generation)
    members, one = members_to_write(options, generation), disk_bytes(param_shapes(plan.model))
    free = shutil.disk_usage(existing_parent(Path(options.run_dir))).free
    return (
        f"{needed / _GIB:.3g} GiB for about {members} members of {one / _GIB:.3g} GiB; "
        f"{free / _GIB:.1f} GiB are free at {options.run_dir}"
    )


def _time(plan: RunPlan, work: Work) -> str:
    """Estimate hours from the copy rate of the first device, which is measured now."""
    config, groups = plan.config, pop_groups(plan.mesh)
    bandwidth = copy_bandwidth() * groups[0].devices.size
    longest = config.decode.max_new_tokens
    lengths = (max(math.ceil(_SHORT * longest), 1), longest)

    def hours(responses: int) -> list[float]:
        batch = config.decode.batch_size
        return [
            decode_seconds(plan.model, -(-responses // len(groups)), n, batch, bandwidth) / 3600
            for n in lengths
        ]

    evolution, afterwards = hours(work.evolution), hours(work.afterwards)
    devices = plan.mesh.devices.size
    total = [devices * (e + a) for e, a in zip(evolution, afterwards, strict=True)]
    text = f"decoding {duration(evolution)}"
    if work.afterwards:
        text += f", and up to {duration(afterwards)} afterwards"
    on_all = f" ({duration(total)} on all {devices} devices together)" if devices > 1 else ""
    text += (
        f"{on_all}, if responses have {lengths[0]} to {lengths[1]} tokens on average and a group "
        f"reads at {_COPY_SHARE:.0%} of its copy rate ({bandwidth / 1e9:,.0f} GB/s, measured now)"
    )
    if config.scientist.kind in LLM_SCIENTISTS:
        rounds = _REQUESTS_EACH, 2 + 2 * config.scientist.reflections
        waiting = [
            work.drafts * n * s / config.scientist.concurrency / 3600
            for n, s in zip(rounds, _REQUEST_S, strict=True)
        ]
        text += (
            f"; the scientist {duration(waiting)}, for {rounds[0]} to {rounds[1]} requests a draft "
            f"of {_REQUEST_S[0]} to {_REQUEST_S[1]} s each, {config.scientist.concurrency} at once"
        )
    return f"{text}. Compiling, breeding, scoring and judging come on top"


def duration(hours: Sequence[float]) -> str:
    """Return the lowest and the highest of two times, in a unit that is easy to read."""
    if hours[1] < 1 / 60:
        return "less than a minute"
    scale, unit = (60, "min") if hours[1] < 2 else (1, "h")
    low, high = (f"{v:,.2g}" if v < 10 else f"{v:,.0f}" for v in (scale * h for h in hours))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
