"""The last declared answer counts."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.models.thoughts import cut_thoughts
from acdc_jax.tasks.answer_extraction import extract_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("dcba", "dcba"),
        ("  dcba \n", "dcba"),
        ("", ""),
        ("Let me think.\nAnswer: 42", "42"),
        ("Answer: 1\nNo, wait.\nAnswer: 2", "2"),
        ("**Answer:** 7", "7"),
        ("The answer is: Paris", "Paris"),
        ("so \\boxed{3} it is", "3"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{a\n{b}\nc}", "a\n{b}\nc"),
        ("Answer: \\boxed{5}", "5"),
        ("\\boxed{1}\nAnswer: 2", "2"),
        ("Answer: 2\nhence \\boxed{9}", "9"),
        ("\\boxed{never closed", "\\boxed{never closed"),
        ("Answer:\n```python\nx = 1\n```", "x = 1"),
        ("Answer:\n```python\nanswer = 1\n# answer: 2\n```", "answer = 1\n# answer: 2"),
        ("Answer: ```\nif answer == 1:\n    x\n```", "if answer == 1:\n    x"),
        (
            "Answer:\n```py\nanswer = x.split('```')\nanswer = 1",
            "answer = x.split('```')\nanswer = 1",
        ),
        ("```python\nanswer = 1\n```", "answer = 1"),
        ("So:\n```\nAnswer: 42\n```", "42"),
        ("```text\n**Answer:** 42\n```\nI hope it helps.", "42"),
        ("```\nAnswer: 42\n```\nAnswer: 43", "43"),
        ("```\nanswer = 1\n```\nAnswer: 2", "2"),
        ("```\nanswer = 1```\nAnswer: 2", "2"),
        ("Put ``` before it.\nAnswer: 2", "2"),
        ("ANSWER: yes", "yes"),
        ("**Answer: 7**", "7"),
        ("**Answer**: 7", "7"),
        ("Answer: **7**", "7"),
        ("*Answer:* 7", "7"),
        ("***Answer: 7***", "7"),
        ("So the **final answer: 7**", "7"),
        ("**Answer:** **7**", "7"),
        ("**Answer: **7**", "7"),
        ("** Answer:** 7", "7"),
        ("**The final\nanswer:** 7", "7"),
        ("**Answer:**\n\n7", "7"),
        ("* Answer: 3 * 4", "3 * 4"),
        ("Answer: ****1234", "****1234"),
        ("**Answer:** ****1234", "****1234"),
        ("Answer: 12**", "12**"),
        ("Answer: *", "*"),
        ("Answer: ****", "****"),
        ("Answer: **kwargs", "**kwargs"),
        ("Answer: __init__", "__init__"),
        ("\\boxed{**7**}", "7"),
    ],
)
def test_extract(response: str, answer: str) -> None:
    assert extract_answer(response) == answer


_PIECES = (
    *(
        "Answer:",
        "**Answer:**",
        "Final answer",
        "The answer is ",
        "answer = ",
        "\\boxed{",
        "}",
        "####",
    ),
    *(
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "```",
        "```python\n",
        "def f(x):",
        "return x",
    ),
    *(
        "\n",
        "\n\n",
        " ",
        "*",
        "**",
        "`",
        "$",
        "\\(",
        "\\[",
        "(",
        "[",
        "{",
        '"',
        "1. ",
        "- ",
        "| a |",
    ),
    *(
        "42",
        "Paris",
        "x = 3",
        "A sentence of several words.",
        "I hope this helps!",
        "Note:",
        "Wait, ",
    ),
    *("Question:", "答案：", "Antwort: ", "see above", "---", "\\text{", "\r\n", ".", ",", ":"),
)
_RESPONSES = st.text() | st.lists(st.sampled_from(_PIECES), max_size=30).map("".join)


def _letters(text: str) -> str:
    return "".join(text.split())


@given(_RESPONSES, st.booleans())
def test_the_answer_is_part_of_the_response(response: str, truncated: bool) -> None:
    """For every response: nothing fails, and nothing is added."""
    answer = extract_answer(response, truncated=truncated)
    assert answer == answer.strip()
    assert _letters(answer) in _letters(cut_thoughts(response))
    if truncated and answer:
        assert extract_answer(response)  # what is complete is also an answer of the whole


@given(_RESPONSES)
def test_thoughts_do_not_count(response: str) -> None:
    thought = "<think>\nAnswer: 5\n#### 5\n\\boxed{5}\n</think>\n"
    if "think" not in response and "channel" not in response and response == response.lstrip():
        assert extract_answer(thought + response) == extract_answer(response)
        assert extract_answer(thought.replace("</think>", "") + response) == ""


_LINES = st.text(alphabet="abc 123+=.,'éß", min_size=1).map(str.strip).filter(bool)


@given(_LINES)
def test_an_answer_of_one_line_is_returned_as_it_is(line: str) -> None:
    for response in (
        f"Answer: {line}",
        f"First, I think.\n\n**Answer:** {line}\n",
        f"**Final answer:** {line}\n\nI hope this helps!",
        f"The answer is: {line}",
        f"\\boxed{{1}}\n\n## Answer\n\n{line}\n\nExplanation: I counted.",
        f"<answer>{line}</answer>",
        f"So it is \\boxed{{{line}}}.",
    ):
        assert extract_answer(response) == line


@given(st.lists(_LINES, min_size=1, max_size=6).map("\n".join), st.sampled_from(("", "python")))
def test_a_block_is_returned_as_it_is(text: str, language: str) -> None:
    block = f"```{language}\n{text}\n```"
    for response in (f"Answer:\n{block}", f"Answer: {block}\nIt works.", f"Here:\n{block}\nDone."):
        assert extract_answer(response) == text


@given(_RESPONSES)
def test_declaring_an_answer_again_changes_nothing(response: str) -> None:
    once = extract_answer(f"Answer:\n```\n{extract_answer(response)}\n```")
    if "`" not in once:
        assert extract_answer(f"Answer:\n```\n{once}\n```") == once


@given(st.text(alphabet="ab1*", min_size=1).filter(lambda x: not (x[0] == x[-1] == "*")))
def test_asterisks_of_the_answer_stay(answer: str) -> None:
    for declaration in ("Answer: ", "The answer is: ", "**Answer**: "):
        assert extract_answer(declaration + answer) == answer


@given(
    st.text(alphabet="abc 123", min_size=1).map(str.strip).filter(bool),
    st.text().filter(lambda before: "```" not in before),
)
def test_a_final_declaration_always_wins(answer: str, before: str) -> None:
    assert extract_answer(f"{before}\nAnswer: {answer}") == answer


@pytest.mark.parametrize(
    "piece",
    [
        *("Answer: a\n", "Answer:\n", "so the answer: a\n", "The answer is a. ", "\\boxed{", "\n"),
        *(
            "! ",
            "* ",
            "`",
            "$",
            "{",
            "[",
            " ",
            "```x\n",
            "<answer>",
            "<think>",
            "</think>",
            "the \n",
        ),
        *("\\text{", "1. a\n\n", "a\n", "a\n\n", '"answer": ', "#### 1\n", "答案", "final ", "(("),
    ],
)
def test_long_responses_take_little_time(piece: str) -> None:
    """No pattern goes over a text again and again."""
    started = time.process_time()
    for response in (piece * (10_000 // len(piece)), f"Answer: {piece * (10_000 // len(piece))}"):
        extract_answer(response)
    assert time.process_time() - started < 2
