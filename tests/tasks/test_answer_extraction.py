"""The last declared answer counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        ("Answer:\n```python\nx = 1\n```", "```python\nx = 1\n```"),
        (
            "Answer:\n```python\nanswer = 1\n# answer: 2\n```",
            "```python\nanswer = 1\n# answer: 2\n```",
        ),
        ("Answer: ```\nif answer == 1:\n    x\n```", "```\nif answer == 1:\n    x\n```"),
        (
            "Answer:\n```py\nanswer = x.split('```')\nanswer = 1",
            "```py\nanswer = x.split('```')\nanswer = 1",
        ),
        ("```python\nanswer = 1\n```", "```python\nanswer = 1\n```"),
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


@given(st.text())
def test_never_fails_and_is_stripped(response: str) -> None:
    answer = extract_answer(response)
    assert answer == answer.strip()


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
