"""What devices tell each other: the collective operations of the compiled programs.

Nothing is computed, and no weights are made: the programs are compiled for their shapes.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.bench.decode import step_settings
from acdc_jax.evolution.merge import MergeOptions, merge_child, module_groups
from acdc_jax.evolution.mutate import SVDNoise, mutate_leaf, mutated_paths
from acdc_jax.inference import steps
from acdc_jax.inference.steps import Prompts
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh

_KINDS = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
# `%x = f32[8]{0} all-reduce(…)` or, of several arrays, `%x = (f32[8]{0}, f32[8]{0}) all-reduce(…)`;
# an asynchronous one is counted where it starts.
_OPERATION = re.compile(rf"^\s*(?:ROOT )?%\S+ = (.+?) ({'|'.join(_KINDS)})(?:-start)?\(", re.M)
_ARRAY = re.compile(r"\b[a-z]+[0-9a-z]*\[([0-9,]*)\]")
_ROWS = 4  # prompts that are read at once


class Exchange(NamedTuple):
    """A collective operation: its kind, and the entries of its largest result."""

    kind: str
    entries: int


def exchanges(program: str) -> list[Exchange]:
    """The collective operations in the HLO text of a compiled program, each where it stands.

    One in a loop stands there once, however often the loop turns.
    """
    return [
        Exchange(kind, max(math.prod(map(int, filter(None, shape.split(",")))) for shape in arrays))
        for result, kind in _OPERATION.findall(program)
        if (arrays := _ARRAY.findall(result))
    ]


def lowered(
    config: ModelConfig, mesh: jax.sharding.Mesh, slots: int, length: int, prompt: int, rank: int
) -> dict[str, Any]:
    """The programs of a generation on one group's devices, before they are compiled.

    Args:
        config: the decoder.
        mesh: over "model" only, as groups have.
        slots: sequences at once.
        length: tokens of each.
        prompt: padded length of prompts that are read.
        rank: singular values that the mutation perturbs.

    Returns:
        By name: decode, prefill, merge, and the mutation of each kind of projection.
    """
    wanted = sharded_param_shapes(mesh, config)
    settings = step_settings(config, cast(Params, wanted), 16)  # shapes and shardings suffice
    assert settings.placement is not None
    rest, key = settings.placement.replicated, jax.eval_shape(lambda: jax.random.key(0))

    def of(*shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rest)

    begin = steps.init_state.lower(settings, 1, slots, length, wanted, of(0), key)
    state = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        begin.out_info,
        begin.compile().output_shardings,
    )
    prompts = Prompts(of(_ROWS, prompt), *[of(_ROWS)] * 4)
    names, groups = module_groups(wanted, "module")

    halves: Any = np.full((2, len(names)), 0.5, np.float32)

    def merge(base: Any, parents: Any, key: jax.Array) -> Any:
        return merge_child(MergeOptions(), base, parents, halves, key, groups)

    found = {
        "decode": steps.decode.lower(settings, wanted, state, of(1, slots, dtype=jnp.bool_)),
        "prefill": steps.prefill.lower(settings, wanted, state, prompts, key),
        "merge": jax.jit(merge, out_shardings=_places(wanted)).lower(wanted, (wanted, wanted), key),
    }
    for path in mutated_paths(wanted, embeddings=False):
        kind = f"mutate {'.'.join(path.split('.')[2:-1])}"
        if kind not in found:
            leaf = wanted[path]
            mutate = jax.jit(mutate_leaf, static_argnums=2, out_shardings=leaf.sharding)
            found[kind] = mutate.lower(leaf, key, SVDNoise(rank=rank))
    return found


def _places(wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    return {path: leaf.sharding for path, leaf in wanted.items()}


def measure(
    config: ModelConfig, devices: int, slots: int, length: int, prompt: int, rank: int
) -> Iterator[str]:
    """Compiles all of that for `model:devices`; a line for each program."""
    mesh = make_mesh(f"model:{devices}", jax.devices()[:devices])
    for name, program in lowered(config, mesh, slots, length, prompt, rank).items():
        began = time.perf_counter()
        found = exchanges(program.compile().as_text())
        took = time.perf_counter() - began
        counts = Counter(kind for kind, _ in found)
        listed = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "none"
        largest = max((entries for _, entries in found), default=0)
        yield (
            f"collectives of {name}, model:{devices}: {listed}"
            f"{f', the largest of {largest:,} entries' if found else ''}; compiled in {took:.1f} s"
        )
