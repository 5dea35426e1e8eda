"""CollectiveOperation operations of the compiled programs, on four fake devices."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from acdc_jax.bench.scale.collectives import CollectiveOperation, find_collectives, lower_programs
from acdc_jax.models.config import ModelConfig
from acdc_jax.sharding import make_mesh, pop_groups

LAYERS, HIDDEN, SLOTS, LENGTH, PROMPT, RANK = 2, 128, 8, 64, 32, 16
# Four key heads divide among four devices; two do not.
CONFIG = ModelConfig("Qwen2ForCausalLM", 512, HIDDEN, 256, LAYERS, 8, 4, 16, qkv_bias=True)
FEW_HEADS = ModelConfig("Qwen2ForCausalLM", 512, HIDDEN, 256, LAYERS, 6, 2, 16, qkv_bias=True)

Collectives = dict[str, list[CollectiveOperation]]


def compiled(config: ModelConfig, spec: str, only: Sequence[str] = ()) -> Collectives:
    """Return the collectives of the programs of the mesh's last group, of all or some, by name."""
    part = pop_groups(make_mesh(spec, jax.devices()[:4]))[-1]
    programs = lower_programs(config, part, SLOTS, LENGTH, PROMPT, RANK)
    return {name: find_collectives(programs[name].compile().as_text()) for name in only or programs}


@pytest.fixture(scope="module")
def on_four() -> Collectives:
    return compiled(CONFIG, "model:4")


def test_operations_are_found_in_the_text() -> None:
    """Single, tuple and asynchronous operations count; mere mentions do not."""
    text = """
  %all-reduce.1 = f32[8,1,128]{2,1,0} all-reduce(%x), channel_id=2, to_apply=%add
  ROOT %g = (bf16[4]{0}, bf16[2,3]{1,0}) all-gather-start(%y), dimensions={0}
  %done = bf16[2,3]{1,0} all-gather-done(%g)
  %t = f32[2]{0} add(%all-reduce.1, %z), metadata={op_name="all-reduce("}
  %p = pred[] collective-permute(%q), source_target_pairs={{0,1}}
"""
    assert find_collectives(text) == [
        CollectiveOperation("all-reduce", 1024),
        CollectiveOperation("all-gather", 6),
        CollectiveOperation("collective-permute", 1),
    ]


def test_every_kind_is_seen_where_xla_writes_it() -> None:
    """A program that needs an all-gather and an all-reduce, compiled."""
    mesh = make_mesh("model:4", jax.devices()[:4])
    cut, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("model", None))
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=cut)
    gather: Any = jax.jit(lambda x: x + 1, out_shardings=whole)
    reduce: Any = jax.jit(lambda x: x.sum(0), out_shardings=whole)
    assert find_collectives(gather.lower(x).compile().as_text()) == [
        CollectiveOperation("all-gather", 64)
    ]
    assert find_collectives(reduce.lower(x).compile().as_text()) == [
        CollectiveOperation("all-reduce", 8)
    ]


def test_groups_of_one_device_exchange_nothing() -> None:
    """On a mesh over pop, no program has a collective."""
    names = ("decode", "prefill", "merge", "mutate mlp.gate")
    assert compiled(CONFIG, "pop:4", names) == {name: [] for name in names}


@pytest.mark.parametrize("program", ["decode", "prefill"])
def test_a_layer_has_two_sums_over_the_model_axis(on_four: Collectives, program: str) -> None:
    """One after attention, one after the MLP, one of the embedding; and each part's best logit."""
    collectives = on_four[program]
    sums = [size for kind, size in collectives if kind == "all-reduce"]
    rows = SLOTS if program == "decode" else 4 * PROMPT
    assert sums == [rows * HIDDEN] * (2 * LAYERS + 1)
    # The largest logit of each device's part of the vocabulary, and its place.
    rows = SLOTS if program == "decode" else 4
    assert [e for e in collectives if e.kind != "all-reduce"] == [
        CollectiveOperation("all-gather", 4 * rows)
    ] * 2


def test_merging_exchanges_nothing(on_four: Collectives) -> None:
    assert on_four["merge"] == []


def test_mutation_exchanges_gram_matrices(on_four: Collectives) -> None:
    """One sum of a small square each, where outputs are sharded or the longer axis is."""
    for name in ("attention.q", "mlp.gate", "mlp.up", "mlp.down"):
        assert on_four[f"mutate {name}"] == [CollectiveOperation("all-reduce", HIDDEN**2)], name


def test_heads_that_do_not_divide_stay_whole() -> None:
    """Attention then needs no sum, and keys and values are not gathered."""
    programs = compiled(FEW_HEADS, "model:4", ("decode", "prefill"))
    for collectives in programs.values():
        counts = Counter(kind for kind, _ in collectives)
        assert counts == {"all-reduce": LAYERS + 1, "all-gather": 2}


def test_a_mixed_mesh_has_the_model_axis_programs(on_four: Collectives) -> None:
    """Each group of `pop:2,model:2` has as many as `model:4`, over two devices."""
    collectives = compiled(CONFIG, "pop:2,model:2", ["decode"])["decode"]
    assert Counter(k for k, _ in collectives) == Counter(k for k, _ in on_four["decode"])
