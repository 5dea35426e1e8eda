"""Train: one model step by step, or several side by side on groups of devices."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.params import Params
from acdc_jax.training.batches import Batch

Loss = Callable[[Params, Params, Batch], jax.Array]
"""Return a scalar, given what stays as it is, what is trained, and a batch."""

_MOST_STEPS = 10  # of a call
_POP = PartitionSpec("pop")
# Sums whose order depends on which thread is first would give other bits each time.
_COMPILER: dict[str, Any] = {"xla_gpu_exclude_nondeterministic_ops": True}


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
        params: What is trained, float32.
        moments: State of the optimizer.
    """

    params: Params
    moments: optax.OptState


def train(
    loss: Callable[[Params, Batch], jax.Array],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batches: Batch,
) -> tuple[TrainState, jax.Array]:
    """Take one step for each batch; pure, for jit.

    Args:
        loss: Returns a scalar, given what is trained and a batch.
        optimizer: Any.
        state: Where training is.
        batches: Leaves [steps, …].

    Returns:
        The new state, and the loss before each step, [steps].
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(state.params, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, moments = optimizer.update(gradient, state.moments, state.params)
        return TrainState(optax.apply_updates(state.params, updates), moments), value

    new: tuple[TrainState, jax.Array] = jax.lax.scan(step, state, batches)
    return new


def train_side_by_side(
    loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, jax.Array]]:
    """Return a function that trains several models, in one program; it takes over their state.

    The models are dealt to the positions of the mesh axis "pop". Those that share one take turns,
    because a step of one model occupies its devices. Each has its own optimizer, so that gradients
    are clipped model by model.

    Args:
        loss: Of one model.
        optimizer: Of one model.
        mesh: Has the axis "pop". Its other axis may shard the weights of each model.

    Returns:
        A function of the state, leaves [models, …]; of what all models share; and of batches,
        leaves [models, steps, …]. It returns the new state and the losses, [models, steps].
    """

    def of_group(state: TrainState, shared: Params, batches: Batch) -> tuple[TrainState, jax.Array]:
        models, steps = batches.tokens.shape[:2]
        run = partial(train, partial(loss, shared), optimizer)
        if models == 1:  # without copies of the state
            new = run(*jax.tree.map(lambda x: x[0], (state, batches)))
            stacked: tuple[TrainState, jax.Array] = jax.tree.map(lambda x: x[None], new)
            return stacked

        def take_turn(
            i: jax.Array, carry: tuple[TrainState, jax.Array]
        ) -> tuple[TrainState, jax.Array]:
            take = partial(jax.lax.dynamic_index_in_dim, index=i, keepdims=False)
            new = run(*jax.tree.map(take, (carry[0], batches)))
            stacked: tuple[TrainState, jax.Array] = jax.tree.map(
                lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, i, 0), carry, new
            )
            return stacked

        losses = jnp.zeros((models, steps), jnp.float32)
        final: tuple[TrainState, jax.Array] = jax.lax.fori_loop(
            0, models, take_turn, (state, losses)
        )
        return final

    # Manual over all axes if it can be: packed attention does not run in a program that is partly
    # partitioned by hand, and partly by XLA.
    manual = {"pop"} if mesh.shape.get("model", 1) > 1 else set(mesh.axis_names)
    sharded = jax.shard_map(
        of_group,
        mesh=mesh,
        in_specs=(_POP, PartitionSpec(), _POP),
        out_specs=_POP,
        axis_names=manual,
        check_vma=False,
    )
    options = _COMPILER if mesh.devices.flat[0].platform == "gpu" else None
    return jax.jit(sharded, donate_argnums=0, compiler_options=options)


def steps_per_call(steps: int) -> int:
    """Return how many steps a call takes: a divisor of all steps, so that one program does.

    Models that take turns are copied out of the state and back in each call. A CPU takes one step,
    which is long there.
    """
    if jax.default_backend() == "cpu":
        return 1
    return max(n for n in range(1, _MOST_STEPS + 1) if steps % n == 0)


def init_states(
    init: Callable[[Params, jax.Array], Params],
    base: Params,
    optimizer: optax.GradientTransformation,
    keys: jax.Array,
    shardings: Mapping[str, NamedSharding],
    mesh: Mesh,
) -> TrainState:
    """Return the state of several models before their first step.

    Args:
        init: Returns what is trained of one model, given the base and a key.
        base: Weights that training starts from.
        optimizer: Of one model.
        keys: [models] typed PRNG keys.
        shardings: Path → sharding of a leaf [models, …] of what is trained.
        mesh: Mesh of the shardings.
    """

    def init_all(base: Params, keys: jax.Array) -> TrainState:
        def one(key: jax.Array) -> TrainState:
            params = init(base, key)
            return TrainState(params, optimizer.init(params))

        states: TrainState = jax.lax.map(one, keys)
        return states

    places = state_shardings(jax.eval_shape(init_all, base, keys), shardings, mesh)
    states: TrainState = jax.jit(init_all, out_shardings=places)(base, keys)
    return states


def state_shardings(
    state: TrainState, shardings: Mapping[str, NamedSharding], mesh: Mesh
) -> TrainState:
    """Return the sharding of every leaf [models, …]: moments lie where their weights do."""

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = getattr(path[-1], "key", None)
        if isinstance(name, str) and name in shardings:
            return shardings[name]
        return NamedSharding(mesh, _POP)

    places: TrainState = jax.tree_util.tree_map_with_path(place, state)
    return places
