"""The layout of the family tree: no line through another member."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.evolution.recipe import Recipe
from acdc_jax.report.lineage import ancestors, lay_out


def _recipe(generation: int, parents: Sequence[str]) -> Recipe:
    rows = ((),) * len(parents)
    return Recipe("", "merge", tuple(parents), rows, (), None, None, (), generation)


@st.composite
def families(draw):
    """Recipes of a run: two seeds, then children of anything older."""
    recipes = {f"g000-m0{i}": _recipe(0, []) for i in range(2)}
    for generation in range(draw(st.integers(0, 6))):
        older = list(recipes)
        for child in range(draw(st.integers(1, 4))):
            parents = draw(st.lists(st.sampled_from(older), min_size=1, max_size=3, unique=True))
            recipes[f"g{generation:03d}-m1{child}"] = _recipe(generation, parents)
    return recipes


@settings(max_examples=100, deadline=None, derandomize=True)
@given(recipes=families(), data=st.data())
def test_members_below_their_parents_and_lanes_their_own(recipes, data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(recipes)), min_size=1, unique=True))
    known = ancestors(chosen, recipes)
    assert set(chosen) <= set(known)
    places = lay_out(known, recipes)
    assert list(places) == known
    assert len(set(places.values())) == len(known)
    for name, (row, _) in places.items():
        for parent in recipes[name].parents:
            above, lane = places[parent]
            assert above < row
            # The parent's line runs down its lane to the row before the child's.
            through = [p for p in places.values() if p[1] == lane and above < p[0] < row]
            assert not through


def test_ancestors_only():
    recipes = {
        "a": _recipe(0, []),
        "b": _recipe(0, []),
        "c": _recipe(1, ["a"]),
        "d": _recipe(2, ["c", "a"]),
        "e": _recipe(2, ["b"]),
    }
    assert ancestors(["d"], recipes) == ["a", "c", "d"]
