"""Which parts are measured, in which order, and the table at the end."""

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from acdc_jax import flags
from acdc_jax.bench.decode import step_bytes, step_seconds
from acdc_jax.bench.limits import SHAPES, copy_bandwidth, link_rates
from acdc_jax.bench.scale import collectives, disk, generation
from acdc_jax.bench.scale.operators import breeding_seconds
from acdc_jax.bench.scale.settings import MERGE_STREAMS, Figure, ScaleBench
from acdc_jax.bench.scale.workload import Workload, mixed_workload
from acdc_jax.bench.table import Figures
from acdc_jax.bench.weights import random_weights
from acdc_jax.config import Config
from acdc_jax.inference.buckets import bucket
from acdc_jax.inference.memory import weight_bytes
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.run_options import SandboxOptions
from acdc_jax.runtime.memory_budget import limit_pinned_memory
from acdc_jax.sharding import make_mesh

SECTIONS = (ScaleBench, flags.sections_of(Config)["sandbox"])


def main(argv: Sequence[str]) -> None:
    """Runs `acdc bench scale`: a line per figure as it is measured, then all of them in a table."""
    (bench, sandbox), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    limit_pinned_memory(bench.host_budget_gb)
    figures = Figures("what", "mesh", "value", "over one device", "beside")
    for line in _measure(bench, sandbox):
        if isinstance(line, Figure):
            figures.add(*line.cells())
        else:
            print(line, flush=True)
    figures.show(f"scaling at {bench.shape}")


def _measure(bench: ScaleBench, sandbox: SandboxOptions) -> Iterator[str | Figure]:
    model, parts = SHAPES[bench.shape], bench.parts
    counts = bench.device_counts(len(jax.devices()))
    yield f"{len(jax.devices())} devices: {jax.devices()[0].device_kind}"
    if "collectives" in parts:
        length = bucket(bench.longest_prompt)
        for count in counts:
            yield from collectives.measure(
                model, count, bench.slots, length + bench.longest_response, length, bench.rank
            )
    if set(parts) <= {"collectives"}:
        return
    copy, link = copy_bandwidth(), link_rates().to_device
    yield f"copy, bytes read and written: {copy / 1e9:,.0f} GB/s"
    yield f"from page-locked memory to a device: {link / 1e9:.1f} GB/s"
    if "decode" in parts:
        yield from _decode(bench, model, counts, copy)
    workload = mixed_workload(
        bench.prompts, bench.longest_prompt, bench.longest_response, model.vocab_size, 0
    )
    with tempfile.TemporaryDirectory(prefix="acdc-scale-", dir=bench.folder) as folder:
        config = generation.run_config(bench, sandbox, Path(folder))
        if "operators" in parts:
            yield from _operators(config, model, workload, counts, copy)
        specs = _specs(counts, parts)
        if specs:
            yield from _generations(config, model, workload, specs, copy, link)
        if "store" in parts:
            yield from disk.measure(model, bench.members, Path(folder) / "members")


def _specs(counts: Sequence[int], parts: Sequence[str]) -> list[tuple[str, int]]:
    """Meshes on which whole generations are timed, and their devices."""
    specs = [(f"pop:{count}", count) for count in counts] if "generation" in parts else []
    if "mixed" in parts and (most := counts[-1]) % 2 == 0:
        specs.append((f"pop:{most // 2},model:2", most))
    return specs


def _generations(
    config: Config,
    model: ModelConfig,
    workload: Workload,
    specs: Sequence[tuple[str, int]],
    copy: float,
    link: float,
) -> Iterator[str | Figure]:
    """Whole generations on one mesh after the other."""
    alone: float | None = None
    with generation.open_backends() as backends, config.sandbox.open() as box:
        yield f"sandbox: {box.tier}, {config.sandbox.workers} processes"
        for spec, count in specs:
            for one in generation.measure(config, model, workload, box, backends, spec, count):
                if isinstance(one, str):
                    yield one
                    continue
                alone = one.wall if count == 1 else alone
                groups = count // 2 if "model" in spec else count
                yield from generation.figures(
                    spec, one, alone, count, config, model, workload, groups, copy, link
                )


def _decode(
    bench: ScaleBench, model: ModelConfig, counts: Sequence[int], copy: float
) -> Iterator[Figure]:
    """Steps of one member over several devices."""
    alone: float | None = None
    for count in counts:
        mesh = make_mesh(f"model:{count}", jax.devices()[:count])
        here = param_shardings(mesh, model, population=False)
        stored = jax.device_put(random_weights(model, 0), here)
        weights = fuse_weights(model, stored, donate=True)
        taken, first = step_seconds(model, weights, bench.batch, bench.cache)
        alone = taken if count == 1 else alone
        rate = step_bytes(model, weights, bench.batch, bench.cache) / count / taken
        yield Figure(
            f"decode B={bench.batch}, cache {bench.cache}; first steps {first:.1f} s",
            f"model:{count}",
            f"{taken * 1e3:.2f} ms, {bench.batch / taken:,.0f} tok/s",
            "" if alone is None else f"{alone / taken:.2f} ×",
            f"{rate / copy:.0%} of copy, each device",
        )
        del weights
        gc.collect()


def _operators(
    config: Config, model: ModelConfig, workload: Workload, counts: Sequence[int], copy: float
) -> Iterator[str | Figure]:
    """All children made by groups of one device; then one by all devices."""
    children = config.run.children
    for axis, made in (("pop", children), ("model", 1)):
        alone: dict[str, float] = {}
        for count in counts:
            spec, began = f"{axis}:{count}", time.perf_counter()
            found = breeding_seconds(config, model, spec, count, made)
            yield f"operators on {spec}: {time.perf_counter() - began:.1f} s in all"
            alone = found if count == 1 else alone
            least = made * MERGE_STREAMS * weight_bytes(model) / count / copy
            for part, seconds in found.items():
                scaling = f"{alone[part] / seconds:.2f} ×" if alone else ""
                limit = f"{least:.3f} s: copy" if part == "merge" else ""
                what = f"{made} {'child' if made == 1 else 'children'} made, {part}"
                yield Figure(what, spec, f"{seconds:.3f} s", scaling, limit)
            gc.collect()
