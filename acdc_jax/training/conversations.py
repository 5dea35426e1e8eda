"""Read conversations from a JSON Lines file, as chat models are fine-tuned on elsewhere.

A line holds one conversation, in one of two forms:

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}

The first is OpenAI's and TRL's. Roles are `system` or `developer`, `user` and `assistant`; the last
message is the assistant's. A content is a text, or a list of parts of text. In the second form, the
prompt is a user's message and the completion its answer; both may also be lists of messages, as in
TRL. Other fields are ignored, except those that would change what is learnt, which are refused.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.models.chat_template import Message
from acdc_jax.models.fetched_files import check_fetched

_ROLES = {name: name for name in ("system", "user", "assistant")} | {"developer": "system"}
_LONGEST_LINE = 2**24  # bytes
_MOST_BYTES = 2**32  # of a file; in memory it takes several times as much
_SHOWN_FAULTS = 5
_EXAMPLE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


class _Fault(Exception):
    """What is wrong with a line."""


def read_conversations(path: Path) -> list[list[Message]]:
    """Return the conversations of a JSON Lines file; see above.

    Raises:
        AcdcError: The file cannot be read, holds no conversation, or has faulty lines, of which the
            message names the first few.
    """
    conversations: list[list[Message]] = []
    faults: list[str] = []
    check_fetched(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise AcdcError(f"{path}: larger than {_MOST_BYTES >> 30} GiB; give a part of it")
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                try:
                    if text := _decode(line):
                        conversations.append(_conversation(text))
                except _Fault as fault:
                    faults.append(f"{path}: line {number}: {fault}")
                    if len(faults) == _SHOWN_FAULTS:
                        break
    except OSError as error:
        raise AcdcError(f"{path}: {error.strerror or error}") from None
    if faults:
        raise AcdcError("\n".join(faults))
    if not conversations:
        raise AcdcError(f"{path}: holds no conversation; each line is one, such as {_EXAMPLE}")
    return conversations


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines, of those that are too long only the beginning."""
    while line := file.readline(_LONGEST_LINE + 1):
        yield line
        while len(line) > _LONGEST_LINE and not line.endswith(b"\n"):
            line = file.readline(_LONGEST_LINE + 1)


def _decode(line: bytes) -> str:
    """Return the text of a line, without a byte order mark and the spaces around it."""
    if len(line) > _LONGEST_LINE:
        raise _Fault(f"longer than {_LONGEST_LINE >> 20} MiB; is every conversation on a line?")
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise _Fault(f"not UTF-8 ({error.reason}); save the file as UTF-8 text") from None


def _conversation(text: str) -> list[Message]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise _Fault(f"not JSON ({one_line(error)}); write one conversation per line") from None
    except RecursionError:
        raise _Fault("not JSON (too many brackets within each other)") from None
    if not isinstance(record, dict):
        raise _Fault(f"not a JSON object, such as {_EXAMPLE}")
    messages = [_message(message, i) for i, message in enumerate(_records(record), 1)]
    roles = [message["role"] for message in messages]
    if not roles or roles[-1] != "assistant":
        raise _Fault("the last message is not the assistant's, so that there is nothing to learn")
    if "system" in roles[1:]:
        raise _Fault(f"message {roles.index('system', 1) + 1}: only the first may be the system's")
    if roles[roles[0] == "system"] != "user":
        raise _Fault("the first message, or the one behind the system's, is not the user's")
    return messages


def _records(record: Mapping[str, Any]) -> list[Any]:
    """Return the messages of either form, unchecked."""
    if record.get("tools") or record.get("functions"):
        raise _Fault("tools are not supported")
    if "messages" in record:
        parts = [("messages", record["messages"])]
    elif "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            prompt = [{"role": "user", "content": prompt}]
            completion = [{"role": "assistant", "content": completion}]
        parts = [("prompt", prompt), ("completion", completion)]
    else:
        names = ", ".join(sorted(record)[:8]) or "none"
        raise _Fault(f'has neither "messages" nor "prompt" and "completion" (its fields: {names})')
    for name, messages in parts:
        if not isinstance(messages, list):
            raise _Fault(f'"{name}" is not a list of messages')
    return [message for _, messages in parts for message in messages]


def _message(message: Any, number: int) -> Message:
    """Return a message with role and content.

    Args:
        message: The message, unchecked.
        number: Its number in the conversation.
    """
    if not isinstance(message, dict):
        raise _Fault(f"message {number}: not an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _Fault(f"message {number}: role {role!r:.40} is none of {', '.join(_ROLES)}")
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            raise _Fault(f"message {number}: {name} is not supported")
    if message.get("weight", 1) != 1:
        raise _Fault(f"message {number}: weight {message['weight']!r:.40}; all answers are learnt")
    content = _content(message.get("content"), number)
    if role == "assistant" and not content.strip():
        raise _Fault(f"message {number}: the assistant says nothing")
    return {"role": _ROLES[role], "content": content}


def _content(content: Any, number: int) -> str:
    """Return a content's text; that of parts is joined."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise _Fault(f"message {number}: the content is neither a text nor a list of parts")
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _Fault(f"message {number}: a part of type {part.get('type')!r:.40} is no text")
    text = "".join(part["text"] for part in parts)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Fault(f"message {number}: the content has half of a UTF-16 character") from None
    return text
