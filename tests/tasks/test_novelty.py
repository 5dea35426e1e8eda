"""Similar tasks are near, unlike tasks are far, and nothing is forgotten."""

from acdc_jax.tasks import novelty

_TEXTS = [
    "Sum two numbers between one and a hundred.",
    "Write a limerick about a lighthouse keeper.",
    "Reverse the letters of a word.",
]


def test_the_same_text_is_as_near_as_can_be() -> None:
    index = novelty.add(novelty.empty_index(), ["a", "b", "c"], _TEXTS)
    for name, text in zip("abc", _TEXTS, strict=True):
        (found, similarity), *others = novelty.nearest(index, text, 3)
        assert found == name
        assert abs(similarity - 1) < 1e-9
        assert all(other < 0.7 for _, other in others)


def test_a_paraphrase_is_nearer_than_another_subject() -> None:
    index = novelty.add(novelty.empty_index(), ["a", "b", "c"], _TEXTS)
    ranked = novelty.nearest(index, "Reverse all the letters of one word.", 3)
    assert ranked[0][0] == "c"
    assert ranked[0][1] > 0.7 > ranked[1][1]


def test_an_empty_index_has_no_neighbours() -> None:
    assert novelty.nearest(novelty.empty_index(), "anything", 3) == []


def test_growing_at_once_or_one_by_one_is_the_same() -> None:
    whole = novelty.add(novelty.empty_index(), ["a", "b", "c"], _TEXTS)
    parts = novelty.empty_index()
    for name, text in zip("abc", _TEXTS, strict=True):
        parts = novelty.add(parts, [name], [text])
    assert parts.ids == whole.ids
    assert abs(parts.rows - whole.rows).max() == 0
