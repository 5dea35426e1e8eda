"""Scores of gym tasks against those of reasoning-gym, on right, wrong and altered answers."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (extra gym)")

from reasoning_gym.factory import DATASETS

from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.gym import levels, puzzles, scorers
from acdc_jax.tasks.gym.puzzles import scoring_of
from acdc_jax.tasks.gym.questions import Question, draw_questions
from acdc_jax.tasks.gym.scorers.one_answer import one_answer
from acdc_jax.tasks.gym.scorers.two_answers import two_answers

_PUZZLES = sorted(name for name, scoring in puzzles.PUZZLES.items() if scoring.at_once == 1)
_TOKEN = re.compile(r"\w+|\s+|->|[^\w\s]")


@functools.cache
def _questions(family: str) -> list[Question]:
    first = levels.first_levels(family)
    return draw_questions(family, first, 2, np.random.default_rng(1), lambda text: True)


@functools.cache
def _theirs(family: str, seed: int) -> Callable[[str], bool]:
    """Return reasoning-gym's own opinion of answers to a question."""
    dataset, config = DATASETS[family]
    settings = levels.configuration(family, levels.first_levels(family))
    item = dataset(config(seed=seed, size=1, **settings))
    entry = item[0]
    return lambda answer: bool(item.score_answer(answer, entry) == 1.0)


@st.composite
def _altered(draw: st.DrawFn, answer: str) -> str:
    """Return an answer of which a few words and signs are moved, lost, doubled or replaced."""
    tokens = _TOKEN.findall(answer)
    for _ in range(draw(st.integers(0, 3))):
        i = draw(st.integers(0, len(tokens) - 1))
        j = draw(st.integers(0, len(tokens) - 1))
        edit = draw(st.sampled_from(("swap", "drop", "double", "replace")))
        if edit == "swap":
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif edit == "drop" and len(tokens) > 1:
            del tokens[i]
        elif edit == "double":
            tokens.insert(i, tokens[i])
        else:
            tokens[i] = tokens[j]
    return "".join(tokens)


# reasoning-gym takes more than these questions allow: any four numbers, and numbers, buttons or
# moves in any text; and less where a board has other spacing.
_LENIENT = ("fraction_simplification", "puzzle24", "quantum_lock", "tower_of_hanoi")
_STRICT = ("n_queens",)


@pytest.mark.parametrize("family", _PUZZLES)
@given(data=st.data())
def test_scores_agree_with_the_package(family: str, data: st.DataObject) -> None:
    question = data.draw(st.sampled_from(_questions(family)))
    answer = data.draw(_altered(question.answer))
    answer = re.sub(r"\*+", "*", answer)  # reasoning-gym would compute any power
    ours = scoring_of(family).is_right(answer, question.facts)
    theirs = _theirs(family, *question.seeds)(answer)
    assert ours <= theirs or family in _STRICT
    assert theirs <= ours or family in _LENIENT


_ODD = ("", "[" * 2000, "(" * 290, "9" * 5000, "{" * 2000, "-" * 300, "1/0", "null", "{}", "[[1]]")


@pytest.mark.parametrize("family", [*_PUZZLES, "gcd", "course_schedule"])
@given(text=st.text() | st.text("0123456789()[]{}+-*/.,:\"'_QABC=> \n→", max_size=60))
def test_no_text_is_too_odd(family: str, text: str) -> None:
    """Scores of any text are false, and not an error."""
    question = _questions(family)[0]
    is_right = scoring_of(family).is_right
    for odd in (text, *_ODD):
        assert is_right(odd, question.facts) is False
        assert is_right(odd + question.answer, question.facts) in (False, True)


@pytest.mark.parametrize(
    ("family", "answer", "facts"),
    [
        ("countdown", "(1+2) * 3", {"numbers": [3, 2, 1], "target": 9}),
        ("countdown", "-2+2/(1/3)", {"numbers": [3, 2, 1, 2], "target": 4}),
        ("fraction_simplification", r"$\frac{3}{4}$", [3, 4]),
        ("fraction_simplification", "3/4", [3, 4]),
        ("game_of_life", "[[0, 1],\n [1, 0]]", [[0, 1], [1, 0]]),
        ("n_queens", "_Q__\n___Q\nQ___\n__Q_", ["____", "___Q", "____", "____"]),
        ("palindrome_generation", "abcba", "aabbc"),
        ("palindrome_generation", "bacab", "aabbc"),
    ],
)
def test_other_right_answers(family: str, answer: str, facts: Any) -> None:
    assert scoring_of(family).is_right(answer, facts)


def test_scorers_can_be_in_one_file() -> None:
    """No two of their functions have one name, and each module has one function of its own name."""
    names: list[str] = []
    for module in pkgutil.iter_modules(scorers.__path__):
        source = importlib.import_module(f"{scorers.__name__}.{module.name}")
        functions = [
            node.name
            for node in ast.parse(inspect.getsource(source)).body
            if isinstance(node, ast.FunctionDef)
        ]
        assert functions[0] == module.name
        names += functions
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("submission", "answers"),
    [
        ("First: 12\nSecond: cat", ("12", "cat")),
        ("**First:** 12\n\n**Second:** cat ", ("12", "cat")),
        ("first:\n1 2\n3 4\nsecond:\n5", ("1 2\n3 4", "5")),
        ("- First: the first of all\n- Second: b", ("the first of all", "b")),
        ("Second: cat\nFirst: 12", ("", "")),
        ("First: 12\nFirst: 13\nSecond: cat", ("", "")),
        ("First: 12\nSecond: cat\nSecond: dog", ("", "")),
        ("12\ncat", ("", "")),
        ("First: 12", ("", "")),
    ],
)
def test_two_answers(submission: str, answers: tuple[str, str]) -> None:
    """Each must be there once, in order."""
    assert two_answers(submission) == answers


@pytest.mark.parametrize(
    "response",
    [
        "First: 1 2\n3 4\nSecond: cat",
        "Answer:\nFirst: 1 2\n3 4\nSecond: cat",
        "Answer: First: 1 2\n3 4\nSecond: cat",
        "I turn it. Then I spell it.\n\nAnswer:\nFirst:\n1 2\n3 4\nSecond:\ncat",
        "I turn it.\n\n**Answer:**\n\n**First:** 1 2\n3 4\n\n**Second:** cat",
    ],
)
def test_two_answers_of_a_response(response: str) -> None:
    """What is submitted of a response still has both."""
    first, second = two_answers(extract_answer(response))
    assert one_answer(first, "1 2\n3 4")
    assert one_answer(second, "cat")
