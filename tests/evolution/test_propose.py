"""Parents, their number and the distributions of the coefficients."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.evolution.propose import COEFFICIENTS, ProposerOptions, propose


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from([*COEFFICIENTS, "evosax"]),
    bounds=st.tuples(st.integers(1, 4), st.integers(1, 4)).map(sorted),
    members=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_a_proposal_holds_together(kind, bounds, members, seed):
    least, most = bounds
    key, fitness = jax.random.key(seed), np.linspace(1, 0, members).astype(np.float32)
    scales = np.full((5, most + 3), 0.5, np.float32) if kind == "evosax" else None
    if members < least:
        with pytest.raises(ValueError, match=f"an archive of {members}"):
            propose(key, fitness, 5, 3, ProposerOptions(kind, least, most), scales)
        return
    proposal = propose(key, fitness, 5, 3, ProposerOptions(kind, least, most), scales)
    assert proposal.parents.shape == (5, most)
    assert proposal.parents.dtype == np.int32
    assert proposal.coefficients.shape == (5, most, 3)
    assert proposal.coefficients.dtype == np.float32
    for parents, coefficients, n in zip(*proposal, strict=True):
        assert least <= n <= min(most, members)
        assert len(set(parents[:n].tolist())) == n
        assert set(parents.tolist()) <= set(range(members))
        assert (parents[n:] == parents[0]).all()
        assert (coefficients[n:] == 0).all()
        assert (coefficients[:n] != 0).all()
    again = propose(key, fitness, 5, 3, ProposerOptions(kind, least, most), scales)
    for a, b in zip(proposal, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_parents_and_their_number_are_uniform():
    proposal = propose(jax.random.key(0), np.zeros(4), 6000, 1, ProposerOptions("paper", 2, 3))
    assert np.mean(proposal.n_parents == 2) == pytest.approx(0.5, abs=0.03)
    first = np.bincount(proposal.parents[:, 0], minlength=4) / 6000
    np.testing.assert_allclose(first, 0.25, atol=0.03)


def test_decisions_do_not_share_randomness():
    """The same parents are drawn whatever the kind of coefficients and the number of groups."""
    key, fitness = jax.random.key(1), np.zeros(9)
    drawn = [
        propose(key, fitness, 8, groups, ProposerOptions(kind, 2, 3)).parents
        for kind, groups in (("paper", 1), ("module", 7), ("outer", 3))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    other = propose(jax.random.key(2), fitness, 8, 1, ProposerOptions("paper", 2, 3)).parents
    assert not np.array_equal(drawn[0], other)


def draw(kind):
    return propose(jax.random.key(3), np.zeros(5), 4000, 6, ProposerOptions(kind)).coefficients


def test_paper_coefficients():
    w = draw("paper")
    assert (w == w[:, :, :1]).all()
    assert w.mean() == pytest.approx(1, abs=1e-3)
    assert w.std() == pytest.approx(0.01, rel=0.05)


def test_uniform_coefficients():
    w = draw("uniform")
    assert (w == w[:, :, :1]).all()
    assert w.min() >= 0
    assert w.max() <= 1.3
    assert w.mean() == pytest.approx(0.65, abs=0.02)
    assert np.corrcoef(w[:, 0, 0], w[:, 1, 0])[0, 1] == pytest.approx(0, abs=0.05)


def test_module_coefficients():
    w = draw("module")
    assert w.mean() == pytest.approx(0.65, abs=0.02)
    within = w - w.mean(axis=2, keepdims=True)
    assert np.sqrt((within**2).sum() / (w.size * 5 / 6)) == pytest.approx(0.25, rel=0.05)
    assert w.mean(axis=2).std() == pytest.approx(np.sqrt(1.3**2 / 12 + 0.25**2 / 6), rel=0.05)


def test_outer_coefficients():
    w = draw("outer")
    assert w.mean() == pytest.approx(0.8 * 0.6, abs=0.02)
    np.testing.assert_allclose(  # Rank one: a parent's scale times a group's scale.
        w[:, 0, :] * w[:, 1, :1], w[:, 1, :] * w[:, 0, :1], atol=1e-6
    )


def test_evosax_scales_belong_to_parent_ranks():
    fitness = np.float32([0.1, 0.9, 0.5, 0.5])
    scales = np.tile(np.float32([2, 3, 0.5, 10]), (20, 1))  # Two ranks, two groups.
    proposal = propose(jax.random.key(0), fitness, 20, 2, ProposerOptions("evosax", 1, 2), scales)
    for parents, coefficients, n in zip(*proposal, strict=True):
        ranks = [[1, 2, 3, 0].index(p) for p in parents[:n]]
        assert ranks == sorted(ranks)
        np.testing.assert_array_equal(coefficients[0], [1, 20])
        np.testing.assert_array_equal(coefficients[1], [1.5, 30] if n == 2 else [0, 0])


@pytest.mark.parametrize("values", [("magic",), ("paper", 0, 2), ("paper", 3, 2)])
def test_impossible_proposers_are_refused(values):
    with pytest.raises(ValueError, match=r"one of paper|at least 1|not exceed max_parents=2"):
        ProposerOptions(*values)
