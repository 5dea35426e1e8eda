"""Every method on answers made by hand; judges by rule, with biases and without."""

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import entropy

from acdc_jax.evaluation.best_of_n.choices import (
    AnsweredQuestion,
    ChoiceCache,
    accuracies,
    accuracy_row,
    choose_all,
    random_accuracies,
)
from acdc_jax.evaluation.best_of_n.methods import (
    METHODS,
    Answer,
    Helpers,
    Undecided,
    self_certainty,
)
from acdc_jax.tasks.llm import ChatError, ChatRefusal, ChatRequest, Usage

_ANSWERS = re.compile(r"Answer (\d+):\n~~~~\n(.*?)\n~~~~", re.DOTALL)


class _Judge:
    """A `ChatModel` that decides by rule: ordered answers → index of the best one."""

    def __init__(
        self,
        rule: Callable[[Sequence[str]], int] = lambda shown: 0,
        grade: Callable[[str], object] = len,
    ) -> None:
        self.usage = Usage()
        self.asked: list[ChatRequest] = []
        self._rule, self._grade = rule, grade

    async def complete(self, request: ChatRequest) -> str:
        self.asked.append(request)
        await asyncio.sleep(0)
        if request.purpose == "llm_score":
            (answer,) = re.findall(r"The answer:\n~~~~\n(.*?)\n~~~~", request.user, re.DOTALL)
            return json.dumps({"thought": "", "score": self._grade(answer)})
        shown = [text for _, text in _ANSWERS.findall(request.user)]
        return json.dumps({"thought": "", "best": self._rule(shown) + 1})

    def drafting(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def close(self) -> None:
        pass


def _choose(method: str, texts: Sequence[str], helpers: Helpers | None = None) -> int:
    answers = [Answer(text) for text in texts]
    return asyncio.run(_choose_async(method, answers, helpers))  # type: ignore[arg-type]


async def _choose_async(method: str, answers: Sequence[Answer], helpers: Helpers | None) -> int:
    return await METHODS[method](answers, "What is it?", helpers or Helpers())


def _longest(shown: Sequence[str]) -> int:
    return max(range(len(shown)), key=lambda i: len(shown[i]))


# ------------------------------------------------------------------------------ without a model


def test_log_probabilities_and_certainty() -> None:
    answers = [Answer("a", -0.5, 3.0), Answer("b", -0.1, 2.0), Answer("c", -0.1, 3.5)]
    assert asyncio.run(_choose_async("log_prob", answers, None)) == 1  # the first of equals
    assert asyncio.run(_choose_async("self_certainty", answers, None)) == 2


@pytest.mark.parametrize("method", ["log_prob", "self_certainty"])
def test_an_unknown_confidence_is_a_missing_choice(method: str) -> None:
    answers = [Answer("a", math.nan, math.nan, solved=True), Answer("b", -0.1, 2.0, solved=True)]
    panel = {"q": AnsweredQuestion("", answers)}
    chosen, problem = asyncio.run(choose_all(method, panel, Helpers(), None, None))
    assert not chosen
    assert problem == "the log-probabilities of an answer are not on file"


def test_self_certainty_is_the_divergence_from_uniform() -> None:
    """The mean over tokens of scipy's KL(uniform ‖ p)."""
    logits = np.random.default_rng(0).normal(scale=3.0, size=(6, 50))
    log_p = log_softmax(logits, axis=-1)
    divergence = [entropy(np.full(50, 1 / 50), np.exp(row)) for row in log_p]
    assert self_certainty(float(log_p.mean()), 50) == pytest.approx(np.mean(divergence))
    assert self_certainty(-math.log(50), 50) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("texts", "chosen"),
    [
        (["Answer: 3", "I think.\nAnswer: 4", "\\boxed{4}"], 1),
        (["Answer: a", "Answer: b"], 0),  # of equally frequent ones the first
        (["Answer: Big  Ben", "Answer: x", "answer: big ben"], 0),
        (["", "", "Answer: x"], 2),  # no answer is no vote
        (["", ""], 0),
    ],
)
def test_plurality(texts: Sequence[str], chosen: int) -> None:
    assert _choose("plurality", texts) == chosen


def test_plurality_of_what_a_benchmark_extracts() -> None:
    texts = ["Answer: 1", "Answer: 1", "so 2", "thus 2", "2"]
    extracted = ["", "", "2", "3", "2"]
    answers = [Answer(t, extracted=e) for t, e in zip(texts, extracted, strict=True)]
    assert asyncio.run(_choose_async("plurality", answers, None)) == 2


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=8))
def test_the_oracle_is_coverage(solved: list[bool | None]) -> None:
    panel = {"q": AnsweredQuestion("", [Answer("", solved=one) for one in solved])}
    chosen, _ = asyncio.run(choose_all("oracle", panel, Helpers(), None, None))
    (value,) = accuracies(panel, chosen)
    if None in solved:
        assert math.isnan(value)  # as for every other method
    else:
        assert value == float(True in solved)


# ---------------------------------------------------------------------------------- with a judge


@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=9))
def test_a_consistent_judge_gets_its_favourite(texts: list[str]) -> None:
    judge = _Judge(_longest, grade=lambda answer: min(len(answer), 10))
    best = max(map(len, texts))
    for method in ("llm_judge", "llm_knockout", "llm_score"):
        assert len(texts[_choose(method, texts, Helpers(judge))]) == best


@given(st.permutations(["one", "two", "three", "four", "five"]), st.sampled_from([0, 1]))
def test_a_judge_that_only_looks_at_the_place_decides_nothing(texts: list[str], place: int) -> None:
    """Knockout asks in both orders: what is no verdict leaves the candidate that comes first."""
    judge = _Judge(lambda shown: place)
    assert _choose("llm_knockout", texts, Helpers(judge)) == 0
    assert len(judge.asked) == 2 * (len(texts) - 1)


def test_a_bias_that_quality_outweighs_does_no_harm() -> None:
    """A judge that falls for the first place unless the other answer is much longer."""

    def biased(shown: Sequence[str]) -> int:
        return 1 if len(shown) > 1 and len(shown[1]) > len(shown[0]) + 2 else 0

    assert _choose("llm_knockout", ["abc", "abcdefgh", "ab"], Helpers(_Judge(biased))) == 1


def test_the_list_has_no_fixed_order() -> None:
    """A judge that always names the first answer takes each candidate about equally often."""
    taken = [
        asyncio.run(
            METHODS["llm_judge"](
                [Answer(text) for text in "abcd"], f"question {i}", Helpers(_Judge())
            )
        )
        for i in range(200)
    ]
    assert min(np.bincount(taken, minlength=4)) > 30


def test_equal_answers_cost_nothing() -> None:
    judge = _Judge()
    for method in ("llm_judge", "llm_knockout", "llm_score"):
        assert _choose(method, ["same", "same", "same"], Helpers(judge)) == 0
    assert not judge.asked


def test_rewards() -> None:
    helpers = Helpers(rewards=lambda question, answers: [len(a) for a in answers])
    assert _choose("reward", ["a", "abc", "xyz"], helpers) == 1


# --------------------------------------------------------------------- whole sets of questions


def _panels(count: int) -> dict[str, AnsweredQuestion]:
    right = Answer("right", solved=True)
    return {
        f"q{i}": AnsweredQuestion(f"question {i}", [Answer(f"a{i}", solved=False), right])
        for i in range(count)
    }


def test_a_judge_that_cannot_be_reached_makes_results_missing(tmp_path: Path) -> None:
    panels, judge = _panels(40), _Judge(_longest)
    answer = judge.complete

    async def down(request: ChatRequest) -> str:
        if len(judge.asked) >= 8:
            judge.asked.append(request)
            raise ChatError("nobody is there")
        return await answer(request)

    judge.complete = down  # type: ignore[method-assign]
    path, helpers = tmp_path / "choices.jsonl", Helpers(judge)

    def ask() -> tuple[dict[str, int], str | None]:
        return asyncio.run(choose_all("llm_judge", panels, helpers, "judge", ChoiceCache(path)))

    chosen, problem = ask()
    assert problem == "nobody is there"
    assert len(chosen) == 8
    values = accuracies(panels, chosen)
    assert [value for value in values if not math.isnan(value)] == [1.0] * 8
    line = accuracy_row("llm_judge", values, 0)
    assert (line["accuracy"], line["missing"]) == (1.0, 32)  # missing, not wrong

    judge.complete = answer  # type: ignore[method-assign]
    judge.asked.clear()
    path.write_text(path.read_text() + '\n{"key": "cut sho')  # by a kill
    chosen, problem = ask()
    assert (len(chosen), problem) == (40, None)
    assert len(judge.asked) == 32  # what was known is not asked again
    assert ask() == (chosen, None)
    assert len(judge.asked) == 32


def test_one_question_that_the_judge_cannot_answer_is_missing_alone(tmp_path: Path) -> None:
    panels, judge = _panels(20), _Judge(_longest)
    answer = judge.complete

    async def poisoned(request: ChatRequest) -> str:
        if "question 0" in request.user:
            raise ChatError("status 500")
        return await answer(request) if "question" in request.user else "yes"

    judge.complete = poisoned  # type: ignore[method-assign]
    cache = ChoiceCache(tmp_path / "choices.jsonl")
    chosen, problem = asyncio.run(choose_all("llm_judge", panels, Helpers(judge), "judge", cache))
    assert len(chosen) == 19
    assert problem is not None
    assert "status 500" in problem


def test_one_undecided_question_is_missing_alone(tmp_path: Path) -> None:
    panels = _panels(3)
    judge = _Judge(grade=lambda answer: 3)
    answer = judge.complete

    async def sometimes(request: ChatRequest) -> str:
        if "question 1" in request.user:
            raise ChatRefusal("too long")
        return await answer(request) if "question 2" in request.user else '{"score": 11}'

    judge.complete = sometimes  # type: ignore[method-assign]
    cache = ChoiceCache(tmp_path / "choices.jsonl")
    chosen, problem = asyncio.run(choose_all("llm_score", panels, Helpers(judge), "judge", cache))
    assert chosen == {"q2": 0}
    assert problem is not None
    assert "no verdict" in problem
    assert accuracy_row("", [math.nan, math.nan], 0)["accuracy"] is None


def test_another_judge_is_asked_anew(tmp_path: Path) -> None:
    cache, judge = ChoiceCache(tmp_path / "choices.jsonl"), _Judge()
    for identity in ("one", "two", "two"):
        asyncio.run(choose_all("llm_judge", _panels(2), Helpers(judge), identity, cache))
    assert len(judge.asked) == 4


def test_a_blind_choice() -> None:
    panels = {
        "a": AnsweredQuestion("", [Answer("", solved=True), Answer("", solved=False)]),
        "b": AnsweredQuestion("", [Answer("", solved=None), Answer("", solved=True)]),
    }
    half, unknown = random_accuracies(panels)
    assert half == 0.5
    assert math.isnan(unknown)


def test_undecided_is_no_answer() -> None:
    def too_long(question: str, answers: Sequence[str]) -> Sequence[float]:
        raise Undecided("too long")

    chosen, problem = asyncio.run(
        choose_all("reward", _panels(1), Helpers(rewards=too_long), None, None)
    )
    assert (chosen, problem) == ({}, "too long")
