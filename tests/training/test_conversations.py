"""Conversations from files, as users have them, and files that are none."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.training import conversations
from acdc_jax.training.conversations import read_conversations

_USER = {"role": "user", "content": "Why?"}
_ASSISTANT = {"role": "assistant", "content": "Because."}


def _read(tmp_path: Path, data: bytes | str | list[Any]) -> list[Any]:
    path = tmp_path / "data.jsonl"
    if isinstance(data, list):
        data = "".join(json.dumps(record) + "\n" for record in data)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_conversations(path)


def _fault(tmp_path: Path, data: bytes | str | list[Any]) -> str:
    with pytest.raises(AcdcError) as refusal:
        _read(tmp_path, data)
    return str(refusal.value).replace(f"{tmp_path}/data.jsonl: ", "")


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [_USER, _ASSISTANT]},
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": [_USER], "completion": [_ASSISTANT]},
        {"messages": [{**_USER, "name": "Ann"}, {**_ASSISTANT, "weight": 1}], "id": 7},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": t} for t in ("Wh", "y?")]},
                _ASSISTANT,
            ]
        },
    ],
)
def test_forms(record: dict[str, Any], tmp_path: Path) -> None:
    """OpenAI's, TRL's two, and contents in parts."""
    assert _read(tmp_path, [record, record]) == [[_USER, _ASSISTANT]] * 2


def test_several_turns(tmp_path: Path) -> None:
    """With a system message, by either of its names."""
    turns = [_USER, _ASSISTANT, _USER, _ASSISTANT]
    records = [
        {"messages": [{"role": role, "content": "Be brief."}, *turns]}
        for role in ("system", "developer")
    ]
    system = {"role": "system", "content": "Be brief."}
    assert _read(tmp_path, records) == [[system, *turns]] * 2


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n \n"])
def test_ends_of_lines(start: str, end: str, tmp_path: Path) -> None:
    """A byte order mark, Windows' line ends and blank lines say nothing."""
    text = json.dumps({"messages": [_USER, {**_ASSISTANT, "content": "Ä\u2028"}]})
    data = start + text + end
    assert _read(tmp_path, data)[0][1]["content"] == "Ä\u2028"


def _messages(*messages: Any) -> list[Any]:
    return [{"messages": messages}]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("", "holds no conversation; each line is one, such as {"),
        (" \n\n", "holds no conversation"),
        ("{\n", "line 1: not JSON (.*); write one conversation per line"),
        ("[" * 100_000, "line 1: not JSON (too many brackets"),
        ("1" * 5000, "line 1: not JSON ("),
        ("7", "line 1: not a JSON object"),
        ([[_USER, _ASSISTANT]], "line 1: not a JSON object, such as {"),
        (json.dumps([_USER]).encode("utf-16"), "line 1: not UTF-8 ("),
        (b"\x1f\x8b\x08\x00", "line 1: not UTF-8 ("),
        ([{"text": "Why?"}], 'line 1: has neither "messages" nor .* fields: text)'),
        ([{"messages": "Why?"}], 'line 1: "messages" is not a list of messages'),
        ([{"prompt": "Why?", "completion": None}], 'line 1: "prompt" is not a list'),
        ([{"messages": []}], "line 1: the last message is not the assistant's"),
        (_messages(_USER), "line 1: the last message is not the assistant's"),
        (_messages(_ASSISTANT), "line 1: the first message, .* is not the user's"),
        (
            _messages({"role": "system", "content": "x"}, _ASSISTANT),
            "line 1: the first message, .* is not the user's",
        ),
        (
            _messages(_USER, {"role": "system", "content": "x"}, _ASSISTANT),
            "line 1: message 2: only the first",
        ),
        (_messages("Why?", _ASSISTANT), "line 1: message 1: not an object"),
        (_messages({"role": "tool", "content": "x"}, _ASSISTANT), "line 1: message 1: role 'tool'"),
        (_messages({"role": ["user"]}, _ASSISTANT), "line 1: message 1: role"),
        (_messages({"role": "user"}, _ASSISTANT), "line 1: message 1: the content is neither"),
        (
            _messages({"role": "user", "content": [{"type": "image_url"}]}, _ASSISTANT),
            "line 1: message 1: a part of type 'image_url'",
        ),
        (_messages(_USER, {**_ASSISTANT, "content": " "}), "line 1: message 2: the assistant says"),
        (_messages(_USER, {**_ASSISTANT, "weight": 0}), "line 1: message 2: weight 0"),
        (
            _messages(_USER, {"role": "assistant", "content": None, "tool_calls": [1]}),
            "line 1: message 2: tool_calls",
        ),
        ([{"messages": [_USER, _ASSISTANT], "tools": [1]}], "line 1: tools"),
        (_messages({"role": "user", "content": "\ud800"}, _ASSISTANT), "line 1: message 1: .*half"),
    ],
    ids=itertools.count(),
)
def test_faults(data: Any, fault: str, tmp_path: Path) -> None:
    """One line each that says where and what."""
    message = _fault(tmp_path, data)
    beginning, _, end = fault.partition(".*")
    assert message.startswith(beginning)
    assert end in message
    assert "\n" not in message
    assert len(message) < 400


def test_several_faults_at_once(tmp_path: Path) -> None:
    """The first five, a line each."""
    good = {"messages": [_USER, _ASSISTANT]}
    lines = _fault(tmp_path, [good, 1, good, *range(20)]).splitlines()
    assert [line[: line.index(": not")] for line in lines] == [f"line {i}" for i in (2, 4, 5, 6, 7)]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is too long is not kept, and the file is not read at all if it is too large."""
    monkeypatch.setattr(conversations, "_LONGEST_LINE", 2**20)
    good = json.dumps({"prompt": "a", "completion": "b"})
    long = json.dumps({"prompt": "a" * 2**22, "completion": "b"})
    assert _fault(tmp_path, f"{good}\n{long}\n7\n").splitlines() == [
        "line 2: longer than 1 MiB; is every conversation on a line?",
        'line 3: not a JSON object, such as {"messages": [{"role": "user", "content": "…"}, '
        '{"role": "assistant", "content": "…"}]}',
    ]
    monkeypatch.setattr(conversations, "_MOST_BYTES", 2**20)
    assert _fault(tmp_path, long).startswith("larger than")


def test_no_file(tmp_path: Path) -> None:
    """Missing, a folder, a pipe, an LFS pointer."""
    for name in ("missing", ".", "/dev/zero"):
        with pytest.raises(AcdcError, match=r"No such file|is no file"):
            read_conversations(tmp_path / name)
    assert "Git LFS" in _fault(tmp_path, "version https://git-lfs.github.com/spec/v1\noid x\n")
