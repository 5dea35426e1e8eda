"""Evolution strategies of evosax that propose merge coefficients.

Library: Lange, "evosax: JAX-based Evolution Strategies", arXiv 2212.04180; version 0.3.

A strategy searches P + G numbers: one scale per parent rank and one per merge group, whose
products are the coefficients. It sees them standardised, so that one centre and one spread suit
every strategy, whatever the name of its step size.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.errors import one_line
from acdc_jax.options import check, option

_PARENT_SCALE = 0.7  # Where the search starts; un-normalised task vectors of 2-3 parents.
_GROUP_SCALE = 0.8


@dataclass(frozen=True)
class StrategyOptions:
    """Which evolution strategy proposes coefficients, and what it learns from.

    Attributes:
        name: Name in `evosax.algorithms`, such as CMA_ES, Open_ES, SNES or DifferentialEvolution.
        spread: Initial standard deviation of every scale.
        reward: What the strategy maximises.
    """

    name: str = option("CMA_ES", "evosax algorithm for the proposer evosax.")
    spread: float = option(0.25, "Initial standard deviation of the strategy.", above=0)
    reward: Literal["novelty", "fitness"] = option("novelty", "What the strategy maximises.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Strategy:
    """A strategy, and the shape of its proposals.

    Attributes:
        name: Name in `evosax.algorithms`, for example CMA_ES, Open_ES, SNES, DifferentialEvolution.
        children: Solutions per generation, C.
        parents: Parent ranks, P.
        groups: Merge groups, G.
        spread: Initial standard deviation of every scale.
    """

    name: str
    children: int
    parents: int
    groups: int
    spread: float = 0.25

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown strategy, or one that these shapes do not suit."""
        if not 0 < self.spread < float("inf"):
            raise ValueError(f"spread {self.spread} of the strategy must be positive")
        _build(self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StrategyState:
    """What a strategy has learnt. A pytree of arrays.

    Attributes:
        inner: evosax's own state.
        initial: Standardised solutions of the first generation, [C, P + G] float32, if the
            strategy begins with an evaluated population; otherwise [0, P + G].
        told: Generations learnt from, int32 scalar.
    """

    inner: Any
    initial: jax.Array
    told: jax.Array


def es_init(strategy: Strategy, key: jax.Array) -> StrategyState:
    """Start a strategy around its centre; population-based ones draw their first generation."""
    algorithm, params = _build(strategy)
    size = strategy.parents + strategy.groups
    draw_key, inner_key = jax.random.split(key)
    with _numpy_promotion():
        from evosax.algorithms.population_based.base import PopulationBasedAlgorithm

        if isinstance(algorithm, PopulationBasedAlgorithm):
            initial = jax.random.normal(draw_key, (strategy.children, size), jnp.float32)
            unknown = jnp.full(strategy.children, jnp.inf, jnp.float32)
            inner = algorithm.init(inner_key, initial, unknown, params)
        else:
            initial = jnp.zeros((0, size), jnp.float32)
            inner = algorithm.init(inner_key, jnp.zeros(size, jnp.float32), params)
    return StrategyState(jax.tree.map(jnp.asarray, inner), initial, jnp.int32(0))


def es_ask(
    strategy: Strategy, key: jax.Array, state: StrategyState
) -> tuple[npt.NDArray[np.float32], StrategyState]:
    """Ask for the solutions of one generation.

    A strategy that has learnt numbers which are not finite starts again.

    Returns:
        Standardised solutions, [C, P + G] float32, to be passed to `scales` and to `es_tell`; and
        the state.
    """
    solutions, asked = _ask(strategy, key, state)
    if not np.isfinite(solutions).all():
        solutions, asked = _ask(strategy, key, es_init(strategy, key))
    return solutions, asked


def _ask(
    strategy: Strategy, key: jax.Array, state: StrategyState
) -> tuple[npt.NDArray[np.float32], StrategyState]:
    if _waits_for_first(state):
        return np.asarray(state.initial), state
    algorithm, params = _build(strategy)
    with _numpy_promotion():
        solutions, inner = algorithm.ask(key, state.inner, params)
    return np.asarray(solutions), StrategyState(inner, state.initial, state.told)


def scales(strategy: Strategy, solutions: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Turn standardised solutions into parent and group scales, [C, P + G] float32."""
    start = np.array([_PARENT_SCALE, _GROUP_SCALE], np.float32)
    centre = np.repeat(start, [strategy.parents, strategy.groups])
    scaled: npt.NDArray[np.float32] = centre + np.float32(strategy.spread) * np.asarray(
        solutions, np.float32
    )
    return scaled


def es_tell(
    strategy: Strategy,
    key: jax.Array,
    state: StrategyState,
    solutions: npt.ArrayLike,
    rewards: npt.ArrayLike,
) -> StrategyState:
    """Tell the strategy the rewards of its children.

    Args:
        strategy: The strategy.
        key: Typed PRNG key.
        state: From `es_ask`.
        solutions: The solutions that `es_ask` returned.
        rewards: [C], more is better: novelty or fitness. A child that was rejected gets the
            smallest reward of the scale.

    Returns:
        The state of the next generation.

    Raises:
        ValueError: A reward is not finite.
    """
    rewards = np.asarray(rewards, np.float32)
    if not np.isfinite(rewards).all():
        child = int(np.argmin(np.isfinite(rewards)))
        raise ValueError(f"the reward of child {child} is {rewards[child]}; it must be finite")
    algorithm, params = _build(strategy)
    solutions, losses = jnp.asarray(solutions, jnp.float32), jnp.asarray(-rewards)
    with _numpy_promotion():
        if _waits_for_first(state):
            inner = algorithm.init(key, solutions, losses, params)
        else:
            inner, _ = algorithm.tell(key, solutions, losses, state.inner, params)
    return StrategyState(inner, state.initial, state.told + 1)


def check_strategy(strategy: Strategy) -> None:
    """Let a strategy propose and learn a few times, as it will in a run.

    Some strategies divide by the number of children less one, or by the spread of their rewards.
    Equal rewards do occur: when all children solve the same tasks, or all were dropped.

    Raises:
        ValueError: It fails, or proposes numbers that are not finite.
    """
    size, key, problem = strategy.children, jax.random.key(0), ""
    equal, different = np.zeros(size), np.linspace(0, 1, size)
    best_alone = np.eye(size)[0]
    try:
        state = es_init(strategy, key)
        for generation, rewards in enumerate((different, equal, best_alone, equal, different)):
            ask_key, tell_key = jax.random.split(jax.random.fold_in(key, generation))
            solutions, state = _ask(strategy, ask_key, state)
            if not np.isfinite(solutions).all():
                problem = f"its proposals are not finite in generation {generation + 1}"
                break
            state = es_tell(strategy, tell_key, state, solutions, rewards)
    except Exception as error:  # evosax raises whatever arithmetic raises
        problem = f"{type(error).__name__}: {one_line(error, 100)}"
    if problem:
        raise ValueError(
            f"{strategy.name} cannot learn from {size} children a generation ({problem}): have "
            "more children, or choose another strategy"
        )


def to_arrays(state: StrategyState) -> dict[str, npt.NDArray[Any]]:
    """Return the state as numpy arrays by path, for a checkpoint."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(strategy: Strategy, arrays: Mapping[str, npt.NDArray[Any]]) -> StrategyState:
    """Return the state that `to_arrays` stored.

    Raises:
        ValueError: An array is missing, or has another strategy's shape or dtype.
    """
    template = jax.eval_shape(partial(es_init, strategy), jax.random.key(0))

    def restore(path: Any, expected: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        array = arrays.get(name)
        if array is None or (array.shape, array.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"the checkpoint does not hold a state of {strategy.name}: see {name}")
        return jnp.asarray(array)

    restored: StrategyState = jax.tree_util.tree_map_with_path(restore, template)
    return restored


def _waits_for_first(state: StrategyState) -> bool:
    return state.initial.shape[0] > 0 and int(state.told) == 0


@lru_cache(maxsize=8)  # evosax compiles its methods again for every object.
def _build(strategy: Strategy) -> tuple[Any, Any]:
    # Imported here, because the import computes on a device, and the processes of a run must have
    # connected before.
    from evosax.algorithms import algorithms

    if strategy.name not in algorithms:
        names = ", ".join(sorted(algorithms))
        raise ValueError(f"evosax has no strategy {strategy.name!r}: choose one of {names}")
    solution = jnp.zeros(strategy.parents + strategy.groups, jnp.float32)
    try:
        with _numpy_promotion():
            algorithm = algorithms[strategy.name](
                population_size=strategy.children, solution=solution
            )
            return algorithm, algorithm.default_params
    except TypeError as error:
        raise ValueError(
            f"{strategy.name} needs settings of its own: choose another strategy"
        ) from error
    except Exception as error:  # assertions, and whatever arithmetic raises
        raise ValueError(
            f"{strategy.name} cannot propose {strategy.children} children of "
            f"{solution.size} scales ({one_line(error)}): choose another "
            "number of children, or another strategy"
        ) from error


@contextmanager
def _numpy_promotion() -> Iterator[None]:
    """Allow dtypes and ranks to mix as numpy would, which evosax does."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
