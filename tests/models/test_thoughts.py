"""What stands in a thought is not the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.models.thoughts import answer_start, cut_thoughts, opened_thought

_ANALYSIS = "<|channel|>analysis<|message|>Answer: 5? No.<|end|>"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("42", "42"),
        (" 42\n", " 42\n"),
        ("<think>\nMaybe 5? No.\n</think>\n\n42", "42"),
        ("<think>\n\n</think>\n\n42", "42"),
        ("Maybe 5? No.\n</think>\n\n42", "42"),  # the template opened the thought
        ("AB</think>C", "C"),
        ('It says "yes"</think>no', "no"),
        ("<think>5? I am still", ""),
        ("  \n<think>5? I am still", ""),
        ("<think>a</think>\n<think>5? I am", ""),
        ("<think>a</think>b\n<think>c</think>d", "b\nd"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("a</think>b</think>c", "c"),
        ("Sure! <think>5? No.</think> 42", "Sure!  42"),
        ("Sure!\n<think>5? No", "Sure!\n"),
        ("<Think>5?</Think>42", "42"),
        ("<thinking>5?</thinking>42", "42"),
        ("<thought>5?</thought>42", "42"),
        ("<reasoning>5?</reasoning>\n<answer>42</answer>", "<answer>42</answer>"),
        ("<seed:think>5?</seed:think>42", "42"),
        ("[THINK]5?[/THINK]42", "42"),
        ("[THINK]5? I am", ""),
        ("5?[/THINK]42", "42"),
        ("◁think▷5?◁/think▷42", "42"),
        ("<|begin_of_thought|>5?<|end_of_thought|>42", "42"),
        ("<|START_THINKING|>5?<|END_THINKING|>42", "42"),
        ("<|channel>thought\n5?<channel|>42", "42"),
        ("<unused94>thought\n5?<unused95>42", "42"),
        ("<unused94>thought\n5? I am", ""),
        ("<think>5?</thinking> no</think>42", "42"),
        (f"{_ANALYSIS}<|start|>assistant<|channel|>final<|message|>42", "42"),
        (f"{_ANALYSIS}<|start|>assistant<|channel|>final<|message|>42<|return|>", "42"),
        (_ANALYSIS, ""),
        (_ANALYSIS.removesuffix("<|end|>"), ""),
        (f"{_ANALYSIS}<|start|>assistant<|channel|>commentary to=f<|message|>{{}}<|call|>", ""),
        ("<|channel|>final <|constrain|>json<|message|>{}", "{}"),
        ("analysisMaybe 5? No.assistantfinal42", "42"),
        # Marks that are text.
        ("Write '</think>' and \"<think>\" and `<think>`.",) * 2,
        ("<think>I write '</think>' last.</think>42", "42"),
        ("The tag <think> opens a thought.",) * 2,
        ("```xml\n<think>\nhm\n</think>\n```",) * 2,
        ('{"code": "s = \'a <think>b</think> c\'"}',) * 2,
        ("I think so. [think] (THINK)",) * 2,
        ("analysis of the poem",) * 2,
    ],
)
def test_cut(text: str, rest: str) -> None:
    assert cut_thoughts(text) == rest


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("[INST]x[/INST][THINK]", "[THINK]"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<|start|>assistant<|channel|>final<|message|>", ""),
        ("<think>\n\n</think>\n\n", ""),
        ("What does <think> mean?", ""),
    ],
)
def test_a_prompt_can_open_a_thought(prompt: str, mark: str) -> None:
    assert opened_thought(prompt) == mark
    if mark:
        assert cut_thoughts(mark + "Answer: 5? I am still") == ""


@given(st.text())
def test_texts_without_marks_stay(text: str) -> None:
    if not any(
        mark in text.lower() for mark in ("think", "thought", "channel", "reasoning", "inner")
    ):
        assert cut_thoughts(text) == text


_PARTS = st.sampled_from(["<think>", "</think>", "[THINK]", "[/THINK]", "\n", '"', "```", "a", " "])


@given(st.lists(_PARTS).map("".join))
def test_the_end_of_the_last_thought_is_where_the_rest_begins(text: str) -> None:
    rest, start = cut_thoughts(text), answer_start(text)
    if start is not None:
        assert rest.endswith(text[start:].lstrip())
    assert cut_thoughts(f"<think>{text.replace('</think>', '')}.</think>42") == "42"
