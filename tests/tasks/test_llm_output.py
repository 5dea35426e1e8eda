"""Objects and code are extracted whatever text surrounds them."""

import json
import re

import pytest

from acdc_jax.tasks.llm_output import extract_code, extract_object, is_true

_FAMILY = 'class TaskFamily:\n    FENCE = "```"\n'
_CODE = 'def f():\n    return "a\\n{b}"\n'


@pytest.mark.parametrize(
    "text",
    [
        '{"new": true}',
        'Certainly!\n```json\n{"new": true}\n```\nAnything else?',
        '<think>{"new": false} or not?</think>{"new": true}',
        '{"note": "{"} then {"new": true}',
        'At first {"new": false}, but in the end {"new": true}.',
        '{"answer": {"new": true}}',
        '{"thought": "two\nlines", "new": true}',
        'A set {1, 2} and {"new": true} and {unfinished',
        ' <think>{"new": false}</think>\n<think>{"new": false}</think>{"new": true}',
        'Sure.\n[THINK]{"new": false}[/THINK]\n{"new": true}',
        '<|channel|>analysis<|message|>{"new": false}<|end|><|start|>assistant'
        '<|channel|>final<|message|>{"new": true}',
        '{"code": "t = \'Use <think> tags\'", "new": true}',
        '{"code": "t = \'a <think>b</think> c\'", "new": true}',
        '{"code": "t = \'<think>\'", "new": true}',
        r'{"code": "re.match(r\'\d+\\s\', \'\\n\')", "new": true}',
        r'{"code": "C:\users", "new": true}',
    ],
)
def test_extract_object(text: str) -> None:
    assert extract_object(text, "new")["new"] is True


@pytest.mark.parametrize(
    "text",
    [
        *("", "no", '{"new": tru', '["new"]', '{"old": 1}', "{" * 10_000),
        *('<think>{"new": true}', '<think>no</think>\n<think>{"new": true}'),
        *('<|channel|>analysis<|message|>{"new": true}', 'Perhaps {"new": true}.</think>No.'),
    ],
)
def test_the_error_quotes_the_answer(text: str) -> None:
    with pytest.raises(ValueError, match="no JSON object with 'new'"):
        extract_object(text, "new")


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ('A set {1, 2}. {"x": "y" "new": true}', "Expecting ',' delimiter: line 1 column 25"),
        ('{"new": true, "code": "x', "Unterminated string starting at: line 1 column 23"),
    ],
)
def test_the_error_says_what_is_wrong_with_the_json(text: str, flaw: str) -> None:
    with pytest.raises(ValueError, match=re.escape(flaw)):
        extract_object(text, "new")


def test_lone_backslashes_are_kept_and_escapes_decoded() -> None:
    text = r"""{"code": "a = r'\d \\d \users \u0041'\nb = 1"}"""
    assert extract_object(text, "code")["code"] == "a = r'\\d \\d \\users A'\nb = 1"


@pytest.mark.parametrize("value", [r'"\ud83d"', "[" * 5000 + "]" * 5000])
def test_surrogates_and_deep_nesting_are_errors(value: str) -> None:
    with pytest.raises(ValueError, match=r"half a surrogate pair|no JSON object"):
        extract_object(f'{{"name": {value}}}', "name")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (_CODE, ""),
        (f"```python\n{_CODE}```", ""),
        (json.loads(json.dumps(_CODE)), ""),
        (None, f"As follows:\n```python\n{_CODE}```\nDone."),
        ("", f"```py\nold\n```\nbetter:\n```python\n{_CODE}```"),
    ],
)
def test_code_keeps_its_lines(value: object, text: str) -> None:
    assert extract_code(value, text) == _CODE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", f"```\n{_FAMILY}```"),
        ("", f"```Python\n{_FAMILY}```\nTo try it:\n```sh\npython task.py\n```"),
        ("", f'```json\n{{"code": ""}}\n```\n```python3\n{_FAMILY}```'),
        ("see below", f"```python\n{_FAMILY}```"),
        (f"The module:\n```python\n{_FAMILY}```\nIt works.", "```python\nx = 1\n```"),
        (_FAMILY, f"```python\n{_FAMILY}y = 2\n```"),
        (_FAMILY + "T = '<think>'\n", ""),
        (f"\n{_FAMILY}", "```\nx = 1\n```"),
    ],
)
def test_a_task_family_is_preferred(value: str, text: str) -> None:
    assert extract_code(value, text).removesuffix("T = '<think>'\n") == _FAMILY


def test_code_that_does_not_parse_is_returned_unchanged() -> None:
    broken = _FAMILY + "x = (\n"
    whole = json.dumps({"code": broken})
    assert extract_code(broken, f"```json\n{whole}\n```") == broken
    assert extract_code(f"```python\n{broken}```", "") == broken
    assert extract_code("", '```json\n{"code": ""}\n```') == ""


def test_code_escaped_twice_is_unescaped_once() -> None:
    assert extract_code("def f():\\n    return 1", "") == "def f():\n    return 1\n"
    assert extract_code('x = "a\\nb"', "") == 'x = "a\\nb"\n'  # it is valid already


def test_no_code() -> None:
    assert extract_code(None, "I cannot.") == ""


@pytest.mark.parametrize("value", [True, "true", "True", "yes.", "DONE", 1])
def test_true(value: object) -> None:
    assert is_true(value)


@pytest.mark.parametrize("value", [False, "false", "no", "", None, 0, [], "not done"])
def test_false(value: object) -> None:
    assert not is_true(value)
