"""Drafts are read in every notation that language models write, if only one reading is possible."""

import json
import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.tasks.draft_and_reflect import parse_draft
from acdc_jax.tasks.lenient_json import decode_object
from acdc_jax.tasks.scientist import TaskRequest
from acdc_jax.tasks.task import Draft, Task
from tests.support.scripted_server import draft

_PARENT = Task("t00000", Draft("n", "d", "c", 1, "e", "", "seed"), 0, {}, {})
_SQUARE = '''import re

class TaskFamily:
    """Square a number."""

    @staticmethod
    def get_tasks():
        return {"1": {"name": "seven", "n": 17}, "2": {"name": "nine", "n": 19}}

    @staticmethod
    def get_instructions(t):
        return f"Square {t['n']}.\\nAnswer with the number."

    @staticmethod
    def score(t, submission):
        digits = re.fullmatch(r"\\s*\\d+\\s*", submission)
        return 1.0 if digits and int(submission) == t["n"] ** 2 else 0.0
'''
_FIELDS = {
    "thought": "It's new.",
    "name": "square",
    "description": "Square it.",
    "capability": "arithmetic",
    "difficulty": 2,
    "example_instruction": 'Say "289" for 17.',
    "reference": [{"instance": "1", "submission": "289"}],
    "code": _SQUARE,
}
_JSON, _CODE = json.dumps(_FIELDS, indent=1), json.dumps(_SQUARE)
_PARTS = "\n  ".join(json.dumps(line) for line in _SQUARE.splitlines(keepends=True))
_BLOCK = _JSON.replace(_CODE, f'"""\n{_SQUARE}"""')


def _parse(answer: str) -> Draft:
    return parse_draft(answer, TaskRequest("novel", _PARENT))


def _without_quotes(match: re.Match[str]) -> str:
    return f"{match[1]}: "


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_JSON, id="JSON"),
        pytest.param(f"<think>Let {{me}} see.</think>{_JSON}", id="thought"),
        pytest.param(f"Sure!\n```json\n{_JSON}\n```\nDone.", id="fence"),
        pytest.param(_JSON.removesuffix("\n}") + ",\n}", id="trailing comma"),
        pytest.param(_BLOCK, id="triple quotes"),
        pytest.param(_JSON.replace(_CODE, f'r"""{_SQUARE}""",'), id="raw, trailing comma"),
        pytest.param(_JSON.replace(_CODE, f"'''\n{_SQUARE}'''"), id="triple single quotes"),
        pytest.param(_JSON.replace(_CODE, f"```python\n{_SQUARE}```"), id="fence in the object"),
        pytest.param(
            _JSON.replace(_CODE, '"' + _SQUARE.replace('"', '\\"').replace("\\n", "\\\\n") + '"'),
            id="real line breaks, single backslashes",
        ),
        pytest.param(_JSON.replace(_CODE, f"({_PARTS})"), id="parts"),
        pytest.param(_JSON.replace(_CODE, _PARTS.replace("\n", " +\n")), id="added parts"),
        pytest.param(_JSON.replace(_CODE, json.dumps(_SQUARE.splitlines())), id="lines"),
        pytest.param(
            _JSON.replace(_CODE, '"see below"') + f"\n```python\n{_SQUARE}```", id="code below"
        ),
        pytest.param(repr(_FIELDS), id="dict"),
        pytest.param(repr(_FIELDS | {"code": "?"}).replace("'?'", _CODE), id="mixed quotes"),
        pytest.param(
            _JSON.replace('": 2,', '": 2,  // easy\n # really\n /* yes */'), id="comments"
        ),
        pytest.param(_JSON.replace('": 2,', '": 2 (easy),'), id="no quotes"),
        pytest.param(
            re.sub(r'"(\w+)": ', _without_quotes, _JSON.split('"code"')[0]) + f"code: {_CODE}}}",
            id="keys without quotes",
        ),
        pytest.param(
            _JSON.replace(_CODE, '"""\n' + textwrap.indent(_SQUARE, "    ") + '    """'),
            id="indented",
        ),
    ],
)
def test_notations(answer: str) -> None:
    draft = _parse(answer)
    assert draft.source.strip() == _SQUARE.strip()
    assert (draft.name, draft.difficulty, draft.reference) == ("square", 2, {"1": "289"})
    assert draft.example_instruction == _FIELDS["example_instruction"]


@pytest.mark.parametrize("cut", [20, 200, 400, len(_CODE) + 20])
@pytest.mark.parametrize("answer", [_JSON, _BLOCK, repr(_FIELDS)])
def test_an_answer_that_was_cut_off_is_an_error(answer: str, cut: int) -> None:
    with pytest.raises(ValueError, match=r"no JSON object with 'name'|contains no code"):
        _parse(answer[:-cut])


@pytest.mark.parametrize(
    ("written", "difficulty"),
    [
        (3, 3),
        (3.0, 3),
        (2.5, 3),
        ("4", 4),
        ("3 (moderate)", 3),
        ("3 - medium", 3),
        ("level 2", 2),
        ("3/5", 3),
        ("6/10", 3),
        ("4 out of 5", 4),
        ("2-3", 2),
        ("9.0", 5),
        (0, 1),
        (-2, 1),
        ("Very easy", 1),
        ("easy", 1),
        ("medium", 3),
        ("challenging", 4),
        ("Hard", 5),
    ],
)
def test_difficulties(written: object, difficulty: int) -> None:
    assert _parse(json.dumps(draft(1) | {"difficulty": written})).difficulty == difficulty


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "'name'"),
        ({"description": 3}, "'description'"),
        ({"capability": None}, "'capability'"),
        ({"difficulty": "high"}, "difficulty"),
        ({"difficulty": None}, "difficulty"),
        ({"code": ""}, "no code"),
        ({"reference": ["5", "6"]}, "reference"),
        ({"reference": [{"1": "5"}]}, "reference"),
    ],
)
def test_missing_fields_are_named(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _parse(json.dumps(draft(1) | change))


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ({"1": 3}, {"1": "3"}),
        ({"instance": 1, "submission": "5"}, {"1": "5"}),
        ({"1": {"a": [1, None]}, "2": ""}, {"1": '{"a": [1, null]}'}),
        ([{"instance": "1", "submission": " "}], None),
        *((none, None) for none in ([], {}, "", "none", None)),
    ],
)
def test_references(written: object, reference: object) -> None:
    assert _parse(json.dumps(draft(1) | {"reference": written})).reference == reference


def test_names_are_cut() -> None:
    assert len(_parse(json.dumps(draft(1) | {"name": "x" * 500})).name) == 80


_PRINTABLE = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=8)
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), _PRINTABLE),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(_PRINTABLE, values, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_PRINTABLE, _VALUES, max_size=4), st.booleans())
def test_json_and_python_dicts_mean_themselves(fields: dict[str, object], spaces: bool) -> None:
    for text in (repr(fields), json.dumps(fields), json.dumps(fields, ensure_ascii=False)):
        padded = f"{text.removesuffix('}')}{',' if fields else ''} # done\n}}" if spaces else text
        assert decode_object(padded + "}", 0) == (fields, len(padded))
        if fields:
            with pytest.raises(ValueError, match="character"):
                decode_object(text[:-1], 0)
