"""What devices tell each other, counted in the compiled programs; four fake devices."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from acdc_jax.bench.scale.collectives import Exchange, exchanges, lowered
from acdc_jax.models.config import ModelConfig
from acdc_jax.sharding import make_mesh, pop_groups

LAYERS, HIDDEN, SLOTS, LENGTH, PROMPT, RANK = 2, 128, 8, 64, 32, 16
# Four key heads divide among four devices; two do not.
CONFIG = ModelConfig("Qwen2ForCausalLM", 512, HIDDEN, 256, LAYERS, 8, 4, 16, qkv_bias=True)
FEW_HEADS = ModelConfig("Qwen2ForCausalLM", 512, HIDDEN, 256, LAYERS, 6, 2, 16, qkv_bias=True)

Found = dict[str, list[Exchange]]


def compiled(config: ModelConfig, spec: str, only: Sequence[str] = ()) -> Found:
    """What the programs of the mesh's last group exchange, by name; of all or of some."""
    part = pop_groups(make_mesh(spec, jax.devices()[:4]))[-1]
    programs = lowered(config, part, SLOTS, LENGTH, PROMPT, RANK)
    return {name: exchanges(programs[name].compile().as_text()) for name in only or programs}


@pytest.fixture(scope="module")
def on_four() -> Found:
    return compiled(CONFIG, "model:4")


def test_operations_are_found_in_the_text() -> None:
    """Single, tuple, asynchronous; what only names one is none."""
    text = """
  %all-reduce.1 = f32[8,1,128]{2,1,0} all-reduce(%x), channel_id=2, to_apply=%add
  ROOT %g = (bf16[4]{0}, bf16[2,3]{1,0}) all-gather-start(%y), dimensions={0}
  %done = bf16[2,3]{1,0} all-gather-done(%g)
  %t = f32[2]{0} add(%all-reduce.1, %z), metadata={op_name="all-reduce("}
  %p = pred[] collective-permute(%q), source_target_pairs={{0,1}}
"""
    assert exchanges(text) == [
        Exchange("all-reduce", 1024),
        Exchange("all-gather", 6),
        Exchange("collective-permute", 1),
    ]


def test_every_kind_is_seen_where_xla_writes_it() -> None:
    """A program that needs an all-gather and an all-reduce, compiled."""
    mesh = make_mesh("model:4", jax.devices()[:4])
    cut, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("model", None))
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=cut)
    gather: Any = jax.jit(lambda x: x + 1, out_shardings=whole)
    reduce: Any = jax.jit(lambda x: x.sum(0), out_shardings=whole)
    assert exchanges(gather.lower(x).compile().as_text()) == [Exchange("all-gather", 64)]
    assert exchanges(reduce.lower(x).compile().as_text()) == [Exchange("all-reduce", 8)]


def test_groups_of_one_device_exchange_nothing() -> None:
    """On a mesh over pop, nothing does: not decoding, reading, merging or mutating."""
    names = ("decode", "prefill", "merge", "mutate mlp.gate")
    assert compiled(CONFIG, "pop:4", names) == {name: [] for name in names}


@pytest.mark.parametrize("program", ["decode", "prefill"])
def test_a_layer_has_two_sums_over_the_model_axis(on_four: Found, program: str) -> None:
    """One after attention, one after the MLP, one of the embedding; and the best of each part."""
    found = on_four[program]
    sums = [entries for kind, entries in found if kind == "all-reduce"]
    rows = SLOTS if program == "decode" else 4 * PROMPT
    assert sums == [rows * HIDDEN] * (2 * LAYERS + 1)
    # The largest logit of each device's part of the vocabulary, and its place.
    rows = SLOTS if program == "decode" else 4
    assert [e for e in found if e.kind != "all-reduce"] == [Exchange("all-gather", 4 * rows)] * 2


def test_merging_exchanges_nothing(on_four: Found) -> None:
    assert on_four["merge"] == []


def test_mutation_exchanges_gram_matrices(on_four: Found) -> None:
    """One sum of a small square each, where outputs are sharded or the longer axis is."""
    for name in ("attention.q", "mlp.gate", "mlp.up", "mlp.down"):
        assert on_four[f"mutate {name}"] == [Exchange("all-reduce", HIDDEN**2)], name


def test_heads_that_do_not_divide_stay_whole() -> None:
    """Then attention needs no sum, and above all nobody gathers keys and values."""
    found = compiled(FEW_HEADS, "model:4", ("decode", "prefill"))
    for exchanged in found.values():
        counts = Counter(kind for kind, _ in exchanged)
        assert counts == {"all-reduce": LAYERS + 1, "all-gather": 2}


def test_a_mixed_mesh_has_the_model_axis_programs(on_four: Found) -> None:
    """`pop:2,model:2`: in each group as many as in `model:4`, and over two devices."""
    found = compiled(CONFIG, "pop:2,model:2", ["decode"])["decode"]
    assert Counter(k for k, _ in found) == Counter(k for k, _ in on_four["decode"])
