"""Objects and code are found whatever a model says around them."""

import json

import pytest

from acdc_jax.tasks.extract import extract_code, extract_object, is_true

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
    ],
)
def test_the_object_is_found(text: str) -> None:
    assert extract_object(text, "new")["new"] is True


@pytest.mark.parametrize(
    "text",
    ["", "no", '{"new": tru', '["new"]', '{"old": 1}', '<think>{"new": true}', "{" * 10_000],
)
def test_where_there_is_none_it_says_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match="no JSON object with 'new'"):
        extract_object(text, "new")


@pytest.mark.parametrize("value", [r'"\ud83d"', "[" * 5000 + "]" * 5000])
def test_what_no_file_could_hold(value: str) -> None:
    with pytest.raises(ValueError, match=r"half of a character|no JSON object"):
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


def test_code_escaped_twice_is_unescaped_once() -> None:
    assert extract_code("def f():\\n    return 1", "") == "def f():\n    return 1\n"
    assert extract_code('x = "a\\nb"', "") == 'x = "a\\nb"\n'  # it parses as it is


def test_no_code_is_no_code() -> None:
    assert extract_code(None, "I cannot.") == ""


@pytest.mark.parametrize("value", [True, "true", "True", "yes.", "DONE", 1])
def test_true(value: object) -> None:
    assert is_true(value)


@pytest.mark.parametrize("value", [False, "false", "no", "", None, 0, [], "not done"])
def test_false(value: object) -> None:
    assert not is_true(value)
