"""Training side by side, on several devices, and what one step reads."""

import dataclasses
import itertools
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.bench.limits import SHAPES
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import init_params
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh
from acdc_jax.training.batches import Batch, Room, find_room, make_batch, predicted, row_order
from acdc_jax.training.fit import (
    TrainState,
    init_states,
    steps_per_call,
    train,
    train_side_by_side,
)
from acdc_jax.training.loss import answer_loss, cast_params
from acdc_jax.training.optimizer import adamw
from tests.training.packed import in_rows, random_conversations

MODEL = dataclasses.replace(SHAPES["tiny"], num_layers=1, num_kv_heads=2, tie_embeddings=True)
PACKED = in_rows(random_conversations([24, 9, 5, 30, 12]), [[0, 1, 2], [3], [4]], 40)
STEPS, MODELS = 2, 4
ORDERS = np.random.default_rng(0).integers(0, 3, (MODELS, STEPS, 2))
BATCHES = make_batch(PACKED, ORDERS, find_room(PACKED, ORDERS.reshape(-1, 2)), MODEL.vocab_size)
OPTIMIZER = adamw(1e-2, 0, STEPS, 0.0, 0.1)


def loss(shared: Params, params: Params, batch: Batch) -> jax.Array:
    return answer_loss(MODEL, *cast_params(MODEL, params), batch)


@pytest.fixture(scope="module")
def alone() -> list[tuple[TrainState, jax.Array]]:
    """Each model by itself."""
    base = init_params(MODEL, jax.random.key(0))
    run = jax.jit(partial(train, partial(loss, {}), OPTIMIZER))
    state = TrainState(base, OPTIMIZER.init(base))
    return [run(state, jax.tree.map(itemgetter(i), BATCHES)) for i in range(MODELS)]


@pytest.mark.parametrize("spec", ["pop:1", "pop:2", "pop:2,model:2"])
def test_side_by_side(spec: str, alone: list[tuple[TrainState, jax.Array]]) -> None:
    """In turn or on groups of devices, each model is what it would be alone, where it should be."""
    devices = jax.devices()[: 1 if spec == "pop:1" else 2 if spec == "pop:2" else 4]
    mesh = make_mesh(spec, devices)
    base = init_params(MODEL, jax.random.key(0))
    places = param_shardings(mesh, MODEL, population=True)
    keys = jax.random.split(jax.random.key(1), MODELS)
    state = init_states(lambda base, key: base, base, OPTIMIZER, keys, places, mesh)
    for path, leaf in state.params.items():
        assert leaf.sharding.is_equivalent_to(places[path], leaf.ndim)
    run = train_side_by_side(loss, OPTIMIZER, mesh)
    new, losses = run(state, {}, BATCHES)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    for i, (expected, values) in enumerate(alone):
        np.testing.assert_allclose(losses[i], values, rtol=1e-5)
        for path, leaf in new.params.items():
            assert leaf.sharding.is_equivalent_to(places[path], leaf.ndim)
            np.testing.assert_allclose(leaf[i], expected.params[path], rtol=1e-3, atol=1e-4)
    # In the state, moments are sharded as their weights are.
    moments = [leaf for leaf in jax.tree.leaves(new.moments) if leaf.ndim == 3]
    assert moments
    if "model" in spec:
        assert any(leaf.sharding.shard_shape(leaf.shape)[1] < leaf.shape[1] for leaf in moments)


def test_steps_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_per_call(500) == 1  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [steps_per_call(steps) for steps in (500, 28, 9, 7, 11)] == [10, 7, 9, 7, 1]


def test_what_a_step_reads() -> None:
    """Answers are predicted from the token before, within their own conversation only."""
    rows = np.array([[0, 2], [1, 1]])
    batch = make_batch(PACKED, rows, Room(50, 90), 99)
    assert find_room(PACKED, rows) == Room(128, 128)
    for step in range(2):
        tokens = PACKED.tokens[rows[step]].ravel()
        counted = predicted(PACKED)[rows[step]].ravel()
        n = int(counted.sum())
        assert batch.counts[step].sum() == n
        np.testing.assert_array_equal(batch.targets[step, :n], tokens[counted])
        np.testing.assert_array_equal(batch.before[step, :n] + 1, np.flatnonzero(counted))
        assert (batch.before[step, n:] >= len(tokens)).all()
        assert batch.vocabulary is not None
        ids = batch.vocabulary[step]
        np.testing.assert_array_equal(ids[batch.tokens[step]].ravel(), tokens)
        assert len(set(ids.tolist())) == 90
        assert (ids[len(set(tokens.tolist())) :] >= 99).all()
    first = PACKED._replace(answer=PACKED.segments > 0)
    assert not predicted(first)[:, 0].any()
    assert predicted(first).sum() == (PACKED.segments > 0).sum() - 5
    np.testing.assert_array_equal(batch.segments, PACKED.segments[rows])


def test_the_order_of_rows() -> None:
    """Every epoch has all rows, in an order of its own that the key determines."""

    def epochs(seed: int) -> np.ndarray:
        order = row_order(jax.random.key(seed), 20)
        return np.array(list(itertools.islice(order, 60))).reshape(3, 20)

    assert (np.sort(epochs(0), axis=1) == np.arange(20)).all()
    assert len(np.unique(epochs(0), axis=0)) == 3
    np.testing.assert_array_equal(epochs(0), epochs(0))
    assert (epochs(0) != epochs(1)).any()


def test_packed_rows_do_not_see_each_other() -> None:
    """A conversation's loss is the same whatever else is in its row."""
    conversations = random_conversations([10, 12, 8])
    weights = cast_params(MODEL, init_params(MODEL, jax.random.key(0)))
    room = Room(32, 64)

    def value(rows: list[list[int]]) -> float:
        packed = in_rows(conversations, rows, 32)
        packed = packed._replace(answer=packed.answer & (packed.segments == len(rows[0])))
        batch = make_batch(packed, np.arange(len(rows)), room, MODEL.vocab_size)
        return float(answer_loss(MODEL, *weights, batch))

    assert value([[1, 0]]) == pytest.approx(value([[0]]), rel=1e-5)
    assert value([[2, 1, 0]]) == pytest.approx(value([[0]]), rel=1e-5)
    assert jnp.isfinite(value([[1]]))
