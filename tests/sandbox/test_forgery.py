"""Hostile bytes on the sandbox's own descriptor, and in the parsers."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.sandbox import Limits, Outcome, Result, Sandbox, call
from acdc_jax.sandbox.host_requests import HostRequests
from acdc_jax.sandbox.item_clock import Cut
from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.parse_reply import family_report, score_outcomes
from acdc_jax.sandbox.zygote import Reply, ZygoteLost

from .helpers import family

# What an attacker who has found the call's token can do. A family's code may know the token: it
# decides its own scores anyway. It must not break the parent or leave [0, 1].
FIND_TOKEN = """
import json, os, struct, sys
def token():
    frame = sys._getframe()
    while frame:
        if 'channel' in frame.f_locals: return frame.f_locals['channel'].token
        frame = frame.f_back
def send(tag, item, body, length=None, tok=None):
    length = len(body) if length is None else length
    os.write(3, struct.pack('<16sBII', tok or token(), tag, item, length) + body)
"""
FORGERIES = {
    "guessed token on every descriptor": """
for fd in range(64):
    try: os.write(fd, struct.pack('<16sBII', bytes(16), 3, 0, 8) + struct.pack('<d', 1.0))
    except OSError: pass
os._exit(0)""",
    "text on the descriptor": "os.write(3, b'{\"score\": 1.0}' * 9); os._exit(0)",
    "above one": "send(3, 0, struct.pack('<d', 5.0)); os._exit(0)",
    "NaN": "send(3, 0, struct.pack('<d', float('nan'))); os._exit(0)",
    "a score twice": "send(3, 0, struct.pack('<d', 1.0)); return 1.0",
    "more scores than items": """
for i in range(99): send(3, i, struct.pack('<d', 1.0))
os._exit(0)""",
    "another item's score": "send(3, 1, struct.pack('<d', 1.0)); os._exit(0)",
    "a short score": "send(3, 0, b'1.0'); os._exit(0)",
    "half a frame": "send(3, 0, b'', length=8); os._exit(0)",
    "an endless frame": "send(3, 0, b'x' * 9, length=4294967295); os._exit(0)",
    "an unknown tag": "send(77, 0, b''); os._exit(0)",
    "a report for a score": "send(4, 0, b'[{}, {}]'); os._exit(0)",
    "ready again": "send(1, 0, b''); os._exit(0)",
    "a question that is not JSON": "send(9, 0, b'[[['); os.read(3, 99); os._exit(0)",
    "a question of nobody": 'send(9, 0, b\'["shell", "id"]\'); os.read(3, 99); os._exit(0)',
    "a call of a number": "send(9, 0, b'[\"call\", 1, 2, 3, 4]'); os.read(3, 99); os._exit(0)",
    "a question without an end": "send(9, 0, b'', length=9); os._exit(0)",
    "a flood": """
while True: send(5, 0, b'x' * 60000)""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_frames_are_a_task_error(name: str, sandbox: Sandbox) -> None:
    source = family(FORGERIES[name], FIND_TOKEN)
    (outcome,) = sandbox.score(source, [(None, "")]).result()
    assert (outcome.status, outcome.score) == ("task error", None), outcome
    # Control: the same code, used honestly, gives a score, and the parent still works.
    (honest,) = sandbox.score(
        family("send(3, 0, struct.pack('<d', 0.5)); os._exit(0)", FIND_TOKEN), [(None, "")]
    ).result()
    assert honest == Outcome("score", 0.5)


def test_slow_bytes_do_not_extend_the_time_limit(sandbox: Sandbox) -> None:
    body = """
import time
for b in token() * 99: os.write(3, bytes([b])); time.sleep(0.1)"""
    (outcome,) = sandbox.score(family(body, FIND_TOKEN), [(None, "")]).result()
    assert outcome.status in ("timeout", "task error")


def test_a_child_that_does_not_read_answers_is_killed(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers fill the socket; the parent does not wait for ever."""
    monkeypatch.setattr(call, "_LISTEN_S", 0.2)
    body = """
question = json.dumps(['call', "def f(): return 'x' * 250_000", 'f', [], {}]).encode()
for _ in range(9): send(9, 0, question)
import time; time.sleep(60)"""
    (outcome,) = sandbox.score(family(body, FIND_TOKEN), [(None, "")]).result()
    assert (outcome.status, outcome.score) == ("task error", None)
    assert "did not read the answer" in outcome.detail


def _no_run(*_: object) -> Result:
    return Result("value", 1)


@given(
    st.binary(max_size=99)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9), st.lists, max_leaves=9
    ).map(lambda value: json.dumps(["judge", value, "", ""]).encode())
)
def test_any_question_gets_an_answer(body: bytes) -> None:
    host_requests = HostRequests(Limits(), lambda *_: 1.0, _no_run)
    answer = host_requests.answer(body)
    verdict, length = wire.REPLY.unpack_from(answer)
    assert verdict in (wire.GRANTED, wire.REFUSED)
    assert len(answer) == wire.REPLY.size + length
    json.loads(answer[wire.REPLY.size :])


REPORTS = {
    "deep nesting": "b'[' * 100000",
    "deep but balanced": "b'[{\"1\":' + b'[' * 50 + b']' * 50 + b'},{\"1\":\"x\"}]'",
    "NaN": 'b\'[{"1":NaN},{"1":"x"}]\'',
    "overflowing float": 'b\'[{"1":1e999},{"1":"x"}]\'',
    "a number of 100,000 digits": "b'[{\"1\":' + b'9' * 100000 + b'},{\"1\":\"x\"}]'",
    "lone surrogates": 'b\'[{"1":"\\\\ud800"},{"1":"x"}]\'',
    "not UTF-8": 'b\'[{"1":"\\xff"},{"1":"x"}]\'',
    "no instances": "b'[{},{}]'",
    "65 instances": "json.dumps([{str(i): 0 for i in range(65)}, {str(i): '' for i in range(65)}])"
    ".encode()",
    "instructions missing": "b'[{\"1\":0},{}]'",
    "instructions that are no text": 'b\'[{"1":0},{"1":7}]\'',
    "not a pair": "b'7'",
    "empty": "b''",
}


@pytest.mark.parametrize("name", REPORTS)
def test_forged_report_is_an_error(name: str, sandbox: Sandbox) -> None:
    def source(body: str) -> str:
        return f"{FIND_TOKEN}\nclass TaskFamily:\n    def get_tasks():\n        {body}\n"

    report = sandbox.inspect(source(f"send(4, 0, {REPORTS[name]}); os._exit(0)")).result()
    assert report.error
    assert not report.tasks
    control = 'send(4, 0, b\'[{"1":0},{"1":"x"}]\'); os._exit(0)'
    assert sandbox.inspect(source(control)).result().tasks == {"1": 0}


TOKEN = b"t" * wire.TOKEN_BYTES
_frames = st.lists(
    st.tuples(st.sampled_from(sorted(wire.TAGS)), st.integers(0, 3), st.binary(max_size=12)),
    max_size=6,
)


@given(st.binary(max_size=200), st.booleans())
def test_parser_survives_any_bytes(data: bytes, with_token: bool) -> None:
    buffer = bytearray(TOKEN + data if with_token else data)
    try:
        frames = wire.take_frames(buffer, TOKEN, max_body=64)
    except wire.ProtocolError:
        return
    assert all(f.tag in wire.TAGS and len(f.body) <= 64 for f in frames)


@given(_frames)
def test_frames_round_trip(frames: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(wire.pack_frame(TOKEN, *frame) for frame in frames)
    buffer, found = bytearray(), []
    for i in range(0, len(data), 7):  # in small chunks
        buffer += data[i : i + 7]
        found += wire.take_frames(buffer, TOKEN, max_body=64)
    assert [tuple(f) for f in found] == frames
    assert not buffer


@given(
    _frames,
    st.sampled_from([0, 9, 11, 24, 139, 1 << 8, 70 << 8]),
    st.sampled_from([None, "cpu", "idle"]),
    st.integers(1, 4),
)
def test_parsed_scores_were_always_sent(
    frames: list[tuple[int, int, bytes]], status: int, cut: Cut | None, count: int
) -> None:
    reply = Reply([wire.Frame(*f) for f in frames], status, cut)
    limits = Limits()
    try:
        outcomes = score_outcomes(reply, count, limits)
        report = family_report(reply, limits)
    except ZygoteLost:
        assert not frames or frames[0][0] != wire.READY
        return
    assert 1 <= len(outcomes) <= count
    for outcome in outcomes:
        assert (outcome.status == "score") == (outcome.score is not None)
        assert outcome.score is None or 0.0 <= outcome.score <= 1.0
        assert outcome.status != "infrastructure"
    scores = [struct.unpack("<d", b)[0] for t, _, b in frames if t == wire.VALUE and len(b) == 8]
    assert all(o.score in scores for o in outcomes if o.score is not None)
    assert (report.error is None) == bool(report.tasks)
