"""Measure the parts in order, and print the table."""

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
from acdc_jax.bench.scale.settings import MERGE_STREAMS, DeviceRates, Figure, MeshSpec, ScaleBench
from acdc_jax.bench.scale.workload import mixed_workload
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
    """Run `acdc bench scale`: print each figure when it is measured, and all of them in a table."""
    (bench, sandbox), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    limit_pinned_memory(bench.host_budget_gb)
    figures = Figures("what", "mesh", "value", "over one device", "limit")
    for line in _measure(bench, sandbox):
        if isinstance(line, Figure):
            figures.add(*line.cells())
        else:
            print(line, flush=True)
    figures.show(f"scaling at {bench.shape}")


def _measure(bench: ScaleBench, sandbox: SandboxOptions) -> Iterator[str | Figure]:
    """Yield lines for the log, and figures."""
    model, parts = SHAPES[bench.shape], bench.parts
    counts = bench.device_counts(len(jax.devices()))
    yield f"{len(jax.devices())} devices: {jax.devices()[0].device_kind}"
    if "collectives" in parts:
        prompt = bucket(bench.longest_prompt)
        length = prompt + bench.longest_response
        for count in counts:
            yield from collectives.measure(model, count, bench.slots, length, prompt, bench.rank)
    if set(parts) <= {"collectives"}:
        return
    limits = DeviceRates(copy_bandwidth(), link_rates().to_device)
    yield f"copy, bytes read and written: {limits.copy / 1e9:,.0f} GB/s"
    yield f"from page-locked memory to a device: {limits.link / 1e9:.1f} GB/s"
    if "decode" in parts:
        yield from _time_decoding(bench, model, counts, limits)
    workload = mixed_workload(
        bench.prompts, bench.longest_prompt, bench.longest_response, model.vocab_size, 0
    )
    with tempfile.TemporaryDirectory(prefix="acdc-scale-", dir=bench.folder) as folder:
        config = generation.run_config(bench, sandbox, Path(folder))
        if "operators" in parts:
            yield from _time_breeding(config, model, counts, limits)
        if meshes := _generation_meshes(bench, counts):
            scenario = generation.Scenario(config, model, workload)
            yield from _time_generations(scenario, meshes, limits)
        if "store" in parts:
            yield from disk.measure(model, bench.members, Path(folder) / "members")


def _generation_meshes(bench: ScaleBench, counts: Sequence[int]) -> list[MeshSpec]:
    """Return the meshes on which whole generations are timed."""
    meshes = []
    if "generation" in bench.parts:
        meshes = [MeshSpec(f"pop:{count}", count, groups=count) for count in counts]
    if "mixed" in bench.parts and counts[-1] % 2 == 0:
        groups = counts[-1] // 2
        meshes.append(MeshSpec(f"pop:{groups},model:2", counts[-1], groups))
    return meshes


def _time_generations(
    scenario: generation.Scenario, meshes: Sequence[MeshSpec], limits: DeviceRates
) -> Iterator[str | Figure]:
    """Time a whole generation on one mesh after the other."""
    one_device: float | None = None
    options = scenario.config.sandbox
    with generation.open_backends() as backends, options.open() as sandbox:
        yield f"sandbox: {sandbox.tier}, {options.worker_count} processes"
        for mesh in meshes:
            for line in generation.measure(scenario, mesh, sandbox, backends):
                if isinstance(line, str):
                    yield line
                    continue
                one_device = line.wall if mesh.devices == 1 else one_device
                yield from generation.figures(scenario, mesh, line, one_device, limits)


def _time_decoding(
    bench: ScaleBench, model: ModelConfig, counts: Sequence[int], limits: DeviceRates
) -> Iterator[Figure]:
    """Time decoding steps of one member that is sharded over several devices."""
    one_device: float | None = None
    for count in counts:
        mesh = make_mesh(f"model:{count}", jax.devices()[:count])
        shardings = param_shardings(mesh, model, population=False)
        stored = jax.device_put(random_weights(model, 0), shardings)
        weights = fuse_weights(model, stored, donate=True)
        seconds, first = step_seconds(model, weights, bench.batch, bench.cache)
        one_device = seconds if count == 1 else one_device
        rate = step_bytes(model, weights, bench.batch, bench.cache) / count / seconds
        yield Figure(
            f"decode B={bench.batch}, cache {bench.cache}; first steps {first:.1f} s",
            f"model:{count}",
            f"{seconds * 1e3:.2f} ms, {bench.batch / seconds:,.0f} tok/s",
            "" if one_device is None else f"{one_device / seconds:.2f} ×",
            f"{rate / limits.copy:.0%} of copy, each device",
        )
        del weights
        gc.collect()


def _time_breeding(
    config: Config, model: ModelConfig, counts: Sequence[int], limits: DeviceRates
) -> Iterator[str | Figure]:
    """Time all children, on groups of one device; then one child, sharded over all devices."""
    for axis, children in (("pop", config.run.children), ("model", 1)):
        one_device: float | None = None
        for count in counts:
            spec, start = f"{axis}:{count}", time.perf_counter()
            seconds = breeding_seconds(config, model, spec, count, children)
            yield f"operators on {spec}: {time.perf_counter() - start:.1f} s in all"
            one_device = seconds if count == 1 else one_device
            least = children * MERGE_STREAMS * weight_bytes(model) / count / limits.copy
            scaling = f"{one_device / seconds:.2f} ×" if one_device else ""
            what = f"{children} {'child' if children == 1 else 'children'} bred"
            yield Figure(what, spec, f"{seconds:.3f} s", scaling, f"{least:.3f} s: copy of a merge")
            gc.collect()
