"""Count the collective operations of the compiled programs.

The programs are compiled for shapes: no weights are made, and nothing is computed.
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
from acdc_jax.evolution.merge import MergeOptions, merge, module_groups
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
# `%x = f32[8]{0} all-reduce(…)` or, of several arrays, `%x = (f32[8]{0}, f32[8]{0}) all-reduce(…)`.
# An asynchronous operation counts where it starts.
_OPERATION = re.compile(rf"^\s*(?:ROOT )?%\S+ = (.+?) ({'|'.join(_KINDS)})(?:-start)?\(", re.M)
_ARRAY = re.compile(r"\b[a-z]+[0-9a-z]*\[([0-9,]*)\]")
_ROWS = 4  # prompts in a prefill


class CollectiveOperation(NamedTuple):
    """A collective operation.

    Attributes:
        kind: Its name, such as "all-reduce".
        size: Number of entries of its largest result.
    """

    kind: str
    size: int


def find_collectives(program: str) -> list[CollectiveOperation]:
    """Return the collective operations in the HLO text of a compiled program, in its order.

    An operation in a loop counts once, however many times the loop runs.
    """
    return [
        CollectiveOperation(
            kind, max(math.prod(map(int, filter(None, dims.split(",")))) for dims in shapes)
        )
        for result, kind in _OPERATION.findall(program)
        if (shapes := _ARRAY.findall(result))
    ]


def lower_programs(
    config: ModelConfig, mesh: jax.sharding.Mesh, slots: int, length: int, prompt: int, rank: int
) -> dict[str, Any]:
    """Return the programs of a generation on the devices of one group, before compilation.

    Args:
        config: Shape of the model.
        mesh: The devices, with the one axis "model".
        slots: Sequences at once.
        length: Tokens of each.
        prompt: Padded length of the prompts in a prefill.
        rank: Singular values that the mutation perturbs.

    Returns:
        By name: decode, prefill, merge, and the mutation of each kind of projection.
    """
    shapes = sharded_param_shapes(mesh, config)
    settings = step_settings(config, cast(Params, shapes), 16)  # shapes and shardings suffice
    assert settings.placement is not None
    replicated, key = settings.placement.replicated, jax.eval_shape(lambda: jax.random.key(0))

    def array(*shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated)

    start = steps.init_state.lower(settings, 1, slots, length, shapes, array(0), key)
    state = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        start.out_info,
        start.compile().output_shardings,
    )
    prompts = Prompts(array(_ROWS, prompt), *[array(_ROWS)] * 4)
    names, groups = module_groups(shapes, "module")

    halves: Any = np.full((2, len(names)), 0.5, np.float32)

    def merge_halves(base: Any, parents: Any, key: jax.Array) -> Any:
        return merge(base, parents, halves, MergeOptions(), key=key, groups=groups)

    programs = {
        "decode": steps.decode.lower(settings, shapes, state, array(1, slots, dtype=jnp.bool_)),
        "prefill": steps.prefill.lower(settings, shapes, state, prompts, key),
        "merge": jax.jit(merge_halves, out_shardings=_shardings(shapes)).lower(
            shapes, (shapes, shapes), key
        ),
    }
    for path in mutated_paths(shapes, embeddings=False):
        kind = f"mutate {'.'.join(path.split('.')[2:-1])}"
        if kind not in programs:
            leaf = shapes[path]
            mutate = jax.jit(mutate_leaf, static_argnums=2, out_shardings=leaf.sharding)
            programs[kind] = mutate.lower(leaf, key, SVDNoise(rank=rank))
    return programs


def _shardings(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    return {path: leaf.sharding for path, leaf in shapes.items()}


def measure(
    config: ModelConfig, devices: int, slots: int, length: int, prompt: int, rank: int
) -> Iterator[str]:
    """Compile the programs for `model:devices`, and yield a line for each.

    Args:
        config: Shape of the model.
        devices: Number of devices.
        slots: Sequences at once.
        length: Tokens of each.
        prompt: Padded length of the prompts in a prefill.
        rank: Singular values that the mutation perturbs.
    """
    mesh = make_mesh(f"model:{devices}", jax.devices()[:devices])
    for name, program in lower_programs(config, mesh, slots, length, prompt, rank).items():
        start = time.perf_counter()
        collectives = find_collectives(program.compile().as_text())
        seconds = time.perf_counter() - start
        counts = Counter(kind for kind, _ in collectives)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"
        largest = max((size for _, size in collectives), default=0)
        size = f", the largest of {largest:,} entries" if collectives else ""
        yield (
            f"collectives of {name}, model:{devices}: {kinds}{size}; compiled in {seconds:.1f} s"
        )
