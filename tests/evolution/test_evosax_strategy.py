"""evosax strategies: that they learn, survive a checkpoint, and refuse what they cannot do."""

import io

import jax
import numpy as np
import pytest

from acdc_jax.evolution.evosax_strategy import (
    Strategy,
    check_strategy,
    es_ask,
    es_init,
    es_tell,
    from_arrays,
    scales,
    to_arrays,
)

CMA = Strategy("CMA_ES", children=8, parents=2, groups=3)
TARGET = np.float32([0.9, 0.4, 1.0, 0.7, 0.6])


def run(strategy, generations, state=None, first=0):
    """Generations of a toy problem, each with keys of its own, as a resumed run has them."""
    if state is None:
        state = es_init(strategy, jax.random.key(99))
    history = []
    for generation in range(first, first + generations):
        ask_key, tell_key = jax.random.split(jax.random.fold_in(jax.random.key(5), generation))
        solutions, state = es_ask(strategy, ask_key, state)
        rewards = -np.square(scales(strategy, solutions) - TARGET).sum(axis=1)
        state = es_tell(strategy, tell_key, state, solutions, rewards)
        history.append(solutions)
    return history, state


@pytest.mark.parametrize("name", ["CMA_ES", "SNES", "DifferentialEvolution"])
def test_it_climbs_and_resumes(name):
    """Both kinds approach the optimum; interrupted anywhere equals uninterrupted, to the bit."""
    strategy = Strategy(name, children=8, parents=2, groups=3)
    history, _ = run(strategy, 25)
    assert history[0].shape == (8, 5)
    assert history[0].dtype == np.float32

    def regret(solutions):
        return np.square(scales(strategy, solutions) - TARGET).sum(axis=1).mean()

    assert regret(history[-1]) < 0.6 * regret(history[0])
    for stop in (0, 1, 4):
        begun, state = run(strategy, stop)
        file = io.BytesIO()
        np.savez(file, **to_arrays(state))
        file.seek(0)
        restored = from_arrays(strategy, dict(np.load(file)))
        rest, _ = run(strategy, 6 - stop, restored, stop)
        for a, b in zip(history[:6], [*begun, *rest], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["Open_ES", "PSO"])
def test_the_first_generation_is_spread_around_the_centre(name):
    strategy = Strategy(name, children=400, parents=2, groups=3, spread=0.1)
    [first], _ = run(strategy, 1)
    drawn = scales(strategy, first)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.7, 0.7, 0.8, 0.8, 0.8], atol=0.02)
    np.testing.assert_allclose(drawn.std(axis=0), 0.1, rtol=0.1)


def test_it_maximises_the_reward():
    """The mean moves towards the children that were told to be better."""
    state = es_init(CMA, jax.random.key(0))
    solutions, state = es_ask(CMA, jax.random.key(1), state)
    state = es_tell(CMA, jax.random.key(2), state, solutions, solutions[:, 0])
    assert to_arrays(state)[".inner.mean"][0] > 0
    assert to_arrays(state)[".told"] == 1


def test_a_reward_that_is_not_finite_is_refused():
    state = es_init(CMA, jax.random.key(0))
    solutions, state = es_ask(CMA, jax.random.key(1), state)
    with pytest.raises(ValueError, match="child 2 is nan"):
        es_tell(CMA, jax.random.key(2), state, solutions, [0, 1, np.nan, 1, 1, 1, 1, 1])


def test_another_strategys_checkpoint_is_refused():
    arrays = to_arrays(es_init(CMA, jax.random.key(0)))
    with pytest.raises(ValueError, match="does not hold a state of CMA_ES"):
        from_arrays(Strategy("CMA_ES", 8, 3, 3), arrays)
    with pytest.raises(ValueError, match="does not hold a state of SNES"):
        from_arrays(Strategy("SNES", 8, 2, 3), arrays)


@pytest.mark.parametrize(
    ("name", "children", "message"),
    [
        ("Annealing", 8, "no strategy 'Annealing'"),
        ("Open_ES", 7, "cannot propose 7 children"),
        ("DifferentialEvolution", 3, "cannot propose 3 children"),
        ("CMA_ES", 0, "cannot propose 0 children"),
        ("iAMaLGaM_Full", 1, "cannot propose 1 children .*: choose another number"),
        ("SV_CMA_ES", 8, "settings of its own"),
        ("RandomSearch", 8, "settings of its own"),
    ],
)
def test_impossible_strategies_are_refused(name, children, message):
    with pytest.raises(ValueError, match=message):
        Strategy(name, children=children, parents=2, groups=3)
    with pytest.raises(ValueError, match="spread 0"):
        Strategy("CMA_ES", 8, 2, 3, spread=0)


@pytest.mark.parametrize(
    ("name", "reason"), [("CMA_ES", "not finite in generation 2"), ("LES", "ValueError")]
)
def test_strategies_that_cannot_learn_from_one_child_are_refused(name, reason):
    with pytest.raises(ValueError, match=f"{name} cannot learn from 1 children .*{reason}"):
        check_strategy(Strategy(name, children=1, parents=2, groups=1))
    check_strategy(Strategy(name, children=2, parents=2, groups=1))


def test_a_strategy_that_has_learnt_nan_starts_again():
    state = es_init(CMA, jax.random.key(0))
    broken = jax.tree.map(lambda leaf: leaf * np.nan if leaf.dtype == np.float32 else leaf, state)
    solutions, again = es_ask(CMA, jax.random.key(1), broken)
    assert np.isfinite(solutions).all()
    assert to_arrays(again)[".told"] == 0
