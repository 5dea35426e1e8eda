"""The fused kernel, emulated, against the functions that it stands for."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.models.attention import attention_masks, update_cache, xla_attention
from acdc_jax.models.kernels import decode_attention as module
from acdc_jax.models.kernels.decode_attention import BLOCK, concatenate_qkv, decode_attention, fits
from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.rotary import rope, rope_angles

RNG = np.random.default_rng(0)
ROWS, SLOTS, HEAD_DIM = 4, 2 * BLOCK, 16
ANGLES = 1e4 ** -(np.arange(0, HEAD_DIM, 2, dtype=np.float32) / HEAD_DIM)


def draw(*shape: int) -> jax.Array:
    """Standard normal, float32."""
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


# Into how many parts rows are cut, and how many slots are read at once.
CUTS = [(1, BLOCK), (1, 2 * BLOCK), (2, BLOCK), (3, BLOCK)]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(14, 2), (3, 3), (4, 1)])
def test_equals_its_parts(
    heads: int, kv_heads: int, cuts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are empty, within a block, at its edges, and full; nothing else is touched."""
    monkeypatch.setattr(module, "_split", lambda programs, cache: cuts)
    module._run.clear_cache()  # it was traced with other cuts
    q, k, v = draw(ROWS, 1, heads, HEAD_DIM), *(draw(ROWS, 1, kv_heads, HEAD_DIM) for _ in "kv")
    cache = draw(ROWS, SLOTS, kv_heads, HEAD_DIM), draw(ROWS, SLOTS, kv_heads, HEAD_DIM)
    positions = jnp.asarray([[0], [BLOCK - 1], [BLOCK], [SLOTS - 1]], jnp.int32)
    angles = rope_angles(positions, ANGLES)
    seen, (keys, values) = decode_attention(
        concatenate_qkv(q, k, v, None),
        angles,
        positions,
        cache,
        scale=HEAD_DIM**-0.5,
        interpret=True,
    )
    expected_keys = update_cache(cache[0], rope(k, *angles), positions)
    np.testing.assert_allclose(keys, expected_keys, atol=1e-6)
    np.testing.assert_array_equal(values, update_cache(cache[1], v, positions))
    mask = attention_masks((0,), positions, SLOTS, None)[0]
    assert mask.lengths is not None
    assert mask.lengths.tolist() == [1, BLOCK, BLOCK + 1, SLOTS]
    expected = xla_attention(rope(q, *angles), expected_keys, values, mask.mask)
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_mapped_over_members() -> None:
    """Each with a cache of its own; positions are common."""
    q, k, v = draw(2, ROWS, 1, 4, HEAD_DIM), *(draw(2, ROWS, 1, 2, HEAD_DIM) for _ in "kv")
    cache = draw(2, ROWS, SLOTS, 2, HEAD_DIM), draw(2, ROWS, SLOTS, 2, HEAD_DIM)
    positions = jnp.asarray([[3], [BLOCK], [9], [70]], jnp.int32)
    angles = rope_angles(positions, ANGLES)

    def run(
        q: jax.Array, k: jax.Array, v: jax.Array, cache: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        qkv = concatenate_qkv(q, k, v, None)
        return decode_attention(qkv, angles, positions, cache, scale=0.3, interpret=True)

    together = jax.vmap(run)(q, k, v, cache)
    for m in range(2):
        alone = run(q[m], k[m], v[m], (cache[0][m], cache[1][m]))
        jax.tree.map(
            lambda all, one, m=m: np.testing.assert_allclose(all[m], one, atol=1e-6),
            together,
            alone,
        )


@pytest.mark.parametrize("axis", ["model", None])
def test_heads_over_devices(axis: str | None) -> None:
    """Each device does its own, or all do all."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    q, k, v = draw(ROWS, 1, 8, HEAD_DIM), *(draw(ROWS, 1, 2, HEAD_DIM) for _ in "kv")
    cache = draw(ROWS, SLOTS, 2, HEAD_DIM), draw(ROWS, SLOTS, 2, HEAD_DIM)
    positions = jnp.asarray([[3], [BLOCK], [9], [70]], jnp.int32)
    given = rope_angles(positions, ANGLES), positions, cache
    sharded = HeadSharding(mesh, axis)
    expected = decode_attention(concatenate_qkv(q, k, v, None), *given, scale=0.3, interpret=True)
    # The emulation counts with numbers of its own dtypes.
    with jax.numpy_dtype_promotion("standard"):
        found = jax.jit(partial(decode_attention, scale=0.3, heads=sharded, interpret=True))(
            concatenate_qkv(q, k, v, sharded), *given
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


@pytest.mark.parametrize(
    ("programs", "slots", "shared", "expected"),
    [
        (16, 1024, 232_448, (8, BLOCK)),  # four rows of Qwen2.5-7B
        (16, 128, 232_448, (2, BLOCK)),
        (64, 1280, 232_448, (1, 2 * BLOCK)),
        (64, 1280, 101_376, (1, BLOCK)),  # it would not fit
        (64, 1280 + BLOCK, 232_448, (1, BLOCK)),
        (256, 1024, 232_448, (1, BLOCK)),
    ],
)
def test_all_processors_read(
    programs: int,
    slots: int,
    shared: int,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However few rows there are."""
    device = SimpleNamespace(core_count=132, shared_memory_per_block_optin=shared)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    cache = jax.ShapeDtypeStruct((64, slots, 1, 128), jnp.bfloat16)
    assert module._split(programs, cache) == expected


@pytest.mark.parametrize(
    ("heads", "head_dim", "slots", "expected"),
    [(4, 64, BLOCK, True), (64, 64, BLOCK, False), (4, 80, BLOCK, False), (4, 64, 72, False)],
)
def test_shapes(heads: int, head_dim: int, slots: int, expected: bool) -> None:
    """Few query heads per key head, heads of 64 or 128, whole blocks of slots."""
    q, k, cache = (draw(1, n, h, head_dim) for n, h in ((1, heads), (1, 2), (slots, 2)))
    assert fits(q, k, cache) == expected


@pytest.mark.parametrize("cuts", CUTS)
def test_it_compiles_for_a_gpu(cuts: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be seen without one."""
    monkeypatch.setattr(module, "_split", lambda programs, cache: cuts)
    module._run.clear_cache()  # it was traced with other cuts
    heads = {"q": 28, "k": 4, "v": 4}
    q, k, v = (jnp.zeros((2, 1, n, 128), jnp.bfloat16) for n in heads.values())
    cache = (jnp.zeros((2, SLOTS, 4, 128), jnp.bfloat16),) * 2
    positions = jnp.zeros((2, 1), jnp.int32)
    angles = (jnp.ones((2, 1, 1, 64)),) * 2
    step = jax.jit(lambda *given: decode_attention(*given, scale=0.1))
    qkv = concatenate_qkv(q, k, v, None)
    traced = step.trace(qkv, angles, positions, cache)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "decode_attention" in text
    assert ("combine_parts" in text) == (cuts[0] > 1)
    assert "output_operand_aliases" in text
    mapped = jax.jit(jax.vmap(step, in_axes=(0, None, None, 0)))
    given = jnp.stack([qkv, qkv]), angles, positions, tuple(jnp.stack([x, x]) for x in cache)
    traced = mapped.trace(*given)
    assert "decode_attention" in traced.lower(lowering_platforms=("cuda",)).as_text()
