"""What counts as gibberish, and what is merely wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.quickstart.gibberish import is_gibberish
from acdc_jax.quickstart.language import OPERATIONS, answer

LONG = "Explain in a few sentences why the sky is blue. " * 3


@pytest.mark.parametrize(
    "response",
    ["", " \n\t", "\u200b\u200b", "ab\ufffdc", "ab\x00", "x" * 40, "so so so so so so so so so"],
)
def test_noise(response: str) -> None:
    assert is_gibberish([("shout: abcd", response)] * 3)


def test_a_phrase_over_and_over_in_a_long_response() -> None:
    loop = "The sky is blue because " + "of the light and the air and " * 20
    assert is_gibberish([(LONG, loop)])


@pytest.mark.parametrize(
    "response", ["A", "wrong", "0", "***", "The answer is 12.", "naïve 日本語"]
)
def test_wrong_answers_are_not_noise(response: str) -> None:
    assert not is_gibberish([("shout: abcd", response)] * 3)


@given(st.sampled_from(OPERATIONS[:20]), st.text("abz019", min_size=2, max_size=7))
def test_right_answers_are_not_noise(operation: object, text: str) -> None:
    word = operation.new_word  # type: ignore[attr-defined]
    assert not is_gibberish([(f"{word}: {text}", answer((word,), text))])


def test_most_replies_decide() -> None:
    good, bad = ("shout: ab", "AB"), ("shout: ab", "")
    assert is_gibberish([bad, bad, good])
    assert not is_gibberish([bad, good, good])
    assert not is_gibberish([])
