"""A question is asked until its answer can be read, and the answer is read leniently."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from acdc_jax.tasks.ask_llm import ask_json, ask_number, ask_yes_no
from acdc_jax.tasks.llm import ChatError, ChatModel, ChatRefusal
from acdc_jax.tasks.prompts import best_answer, gibberish, judge
from tests.support.replies import Replies, in_turn

_GRADE = judge("Say a.", "a", "It is a.")


def _ask(
    question: Callable[[ChatModel], Coroutine[Any, Any, Any]], *answers: Any
) -> tuple[Any, Replies]:
    chat = Replies(in_turn(*answers))
    return asyncio.run(question(chat)), chat


@pytest.mark.parametrize(
    ("answer", "number"),
    [({"score": 7}, 7), ({"score": "7.5"}, 7.5), ('Fine. {"score": 0}', 0), ({"score": 10.0}, 10)],
)
def test_number(answer: object, number: float) -> None:
    assert _ask(lambda chat: ask_number(chat, "judge", _GRADE, 0, 10), answer)[0] == number


@pytest.mark.parametrize("value", [11, -1, "nan", "good", None, [1]])
def test_unreadable_numbers_are_refused_after_three_attempts(value: object) -> None:
    chat = Replies(in_turn(*[{"score": value}] * 3))
    with pytest.raises(ChatRefusal, match=r"score = .* is not a number"):
        asyncio.run(ask_number(chat, "judge", _GRADE, 0, 10))
    assert len(chat.asked) == 3


def test_whole_number() -> None:
    prompt = best_answer("Say a.", ["a", "b", "c"])
    answer, chat = _ask(
        lambda chat: ask_number(chat, "best", prompt, 1, 3, whole=True),
        {"best": 1.5},
        {"best": "none"},
        {"best": "3"},
    )
    assert answer == 3
    assert [request.sampled for request in chat.asked] == [False, True, True]
    assert len({request.seed for request in chat.asked}) == 3


@pytest.mark.parametrize(
    ("value", "yes"), [(True, True), ("Yes.", True), ("no", False), (0, False)]
)
def test_yes_or_no(value: object, yes: bool) -> None:
    prompt = gibberish([("Say a.", "a")])
    answer, _ = _ask(lambda chat: ask_yes_no(chat, "gibberish", prompt), {"gibberish": value})
    assert answer is yes


def test_equal_questions_have_equal_seeds() -> None:
    def question(chat: ChatModel) -> Coroutine[Any, Any, Any]:
        return ask_json(chat, "judge", _GRADE, str)

    _, first = _ask(question, "?", {"score": 1})
    _, second = _ask(question, "!", {"score": 2})
    assert first.asked == second.asked


def test_a_model_that_is_gone_or_refuses_is_asked_once() -> None:
    for error in (ChatError("gone"), ChatRefusal("too long")):
        chat = Replies(in_turn(error))
        with pytest.raises(type(error), match=str(error)):
            asyncio.run(ask_number(chat, "judge", _GRADE, 0, 10))
        assert len(chat.asked) == 1
