"""An OpenAI-compatible server over HTTP that answers by rule and fails on purpose.

What it says depends on the request alone, never on when it comes, so that two runs against it must
be equal. Runs in a thread (tests), or as a process of its own:
`python scripted_server.py --latency=0.05`.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import json
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aiohttp import web
from anyio.from_thread import start_blocking_portal

Rule = Callable[[dict[str, Any]], str]  # body of a chat request → what the model says

FAULTS = (
    *("429", "500", "503", "timeout", "reset", "truncated", "no choices", "no message", "no body"),
    *("cut", "bytes", "page", "list", "error"),
)


@dataclasses.dataclass
class Script:
    """What the server does, and what it was asked.

    Attributes:
        rule: what the model says.
        latency: seconds before every answer.
        fault_rate: share of the requests that fail at first, once or twice, each in some way.
        faults: the ways.
        stall: seconds of a "timeout".
        refuses_schema: answer 400 to a request with a response format, or to which ones.
        usage: tokens that every answer reports.
        refused: how often a response format was refused.
        down: requests to which the answer is 503.
        refusal: what answer other than 200 a request gets: status and message.
        models: what /models lists; None: there is no such route.
        seen: bodies of the requests that were answered.
        failed: how often each fault was produced.
    """

    rule: Rule
    latency: float = 0.0
    fault_rate: float = 0.0
    faults: Sequence[str] = FAULTS
    stall: float = 2.0
    refuses_schema: bool | Callable[[dict[str, Any]], bool] = False
    usage: Any = dataclasses.field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10}
    )
    refused: int = 0
    down: Callable[[dict[str, Any]], bool] = lambda body: False
    refusal: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda body: None
    models: Sequence[str] | None = None
    seen: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    keys: set[str] = dataclasses.field(default_factory=set)
    tries: Counter[str] = dataclasses.field(default_factory=Counter)
    most_at_once: int = 0
    at_once: int = 0


@contextlib.contextmanager
def serving(script: Script) -> Iterator[str]:
    """The base URL of a server that follows the script."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_running(script)) as url,
    ):
        yield url


@contextlib.asynccontextmanager
async def _running(script: Script, port: int = 0) -> Any:
    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/v1/chat/completions", _handler(script, _chat))
    application.router.add_post("/v1/embeddings", _handler(script, _embeddings))
    if script.models is not None:
        listed = {"data": [{"id": name, "object": "model"} for name in script.models]}

        async def models(request: web.Request) -> web.StreamResponse:
            return web.json_response({"object": "list"} | listed)

        application.router.add_get("/v1/models", models)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


Answer = Callable[[Script, dict[str, Any]], dict[str, Any]]


def _handler(
    script: Script, answer: Answer
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        script.keys.add(request.headers.get("Authorization", ""))
        script.at_once += 1
        script.most_at_once = max(script.most_at_once, script.at_once)
        try:
            if script.latency:
                await asyncio.sleep(script.latency)
            fault = _fault(script, body)
            if fault is not None:
                script.failed[fault] += 1
                return await _fail(script, request, fault, answer(script, body))
            refuses = script.refuses_schema
            if "response_format" in body and (refuses(body) if callable(refuses) else refuses):
                script.refused += 1
                return _error(400, "response_format is not supported")
            if refusal := script.refusal(body):
                return _error(*refusal)
            if script.down(body):
                return _error(503, "gone", {"retry-after-ms": "1"})
            if answer is _chat:
                script.seen.append(body)
            return web.json_response(answer(script, body))
        finally:
            script.at_once -= 1

    return handle


def _fault(script: Script, body: dict[str, Any]) -> str | None:
    """Which fault a request meets in this try; the request alone decides on all of them."""
    if not script.fault_rate:
        return None
    identity = json.dumps(body, sort_keys=True)
    rng = random.Random(identity)
    script.tries[identity] += 1
    if rng.random() >= script.fault_rate or script.tries[identity] > rng.choice((1, 1, 2)):
        return None
    return script.faults[rng.randrange(len(script.faults))]


async def _fail(
    script: Script, request: web.Request, fault: str, whole: dict[str, Any]
) -> web.StreamResponse:
    if fault == "429":
        return _error(429, "slow down", {"Retry-After": "0.05"})
    if fault in ("500", "503"):
        return _error(int(fault), "oops", {"retry-after-ms": "5"})
    if fault == "timeout":
        await asyncio.sleep(script.stall)
    if fault == "reset":
        assert request.transport is not None
        raw: socket.socket = request.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    if fault == "no body":
        return web.Response(status=200, content_type="application/json")
    if fault == "no choices" and "choices" in whole:
        whole["choices"] = []
    if fault == "no message" and "choices" in whole:
        whole["choices"][0]["message"] = None
    if fault == "list":
        whole = [whole]  # type: ignore[assignment]
    if fault == "error":
        whole = {"error": {"message": "overloaded", "code": 503}}
    if fault == "page":
        return web.Response(status=200, text="<h1>Try again</h1>", content_type="text/html")
    if fault == "bytes":
        return web.Response(status=200, body=b"\xff\xfe\x80{", content_type="application/json")
    if fault == "cut":  # the connection ends before the body does
        cut = web.StreamResponse(headers={"Content-Type": "application/json"})
        cut.content_length = 10_000
        await cut.prepare(request)
        await cut.write(json.dumps(whole).encode()[:20])
        assert request.transport is not None
        request.transport.abort()
        return cut
    text = json.dumps(whole)
    if fault == "truncated":
        text = text[: len(text) // 2]
    return web.Response(status=200, text=text, content_type="application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


def _chat(script: Script, body: dict[str, Any]) -> dict[str, Any]:
    said = script.rule(body)
    message = {"role": "assistant", "content": said}
    return {
        "id": "chat",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": script.usage,
    }


def _embeddings(script: Script, body: dict[str, Any]) -> dict[str, Any]:
    rows = [_direction(text) for text in body["input"]]
    return {
        "object": "list",
        "model": body["model"],
        "data": [
            {"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)
        ],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


def _direction(text: str) -> list[float]:
    """A direction that the words of a text determine."""
    row = [0.0] * 64
    for word in text.lower().split():
        row[hashlib.sha256(word.encode()).digest()[0] % 64] += 1.0
    return row


def purpose(body: dict[str, Any]) -> str:
    """What a chat request is for, as its schema or its prompt tells."""
    if "messages" in body and body["messages"][0]["content"].startswith("You solve tasks."):
        return "solve"
    named = body.get("response_format", {}).get("json_schema", {}).get("name")
    if named:
        return str(named)
    text = body["messages"][-1]["content"] if "messages" in body else ""
    for word, known in (("gibberish", "gibberish"), ('"score"', "judge"), ('"new"', "novelty")):
        if f"{word}" in text and "whole Python module" not in text:
            return known
    return "reflect" if '"done"' in text else "propose"


# ------------------------------------------------------------------------- a scientist by rule

_SUMS = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {{"1": {{"a": {a}, "b": {b}}}, "2": {{"a": {b}, "b": {c}}}}}

    @staticmethod
    def get_instructions(t):
        return f"{instruction}"

    @staticmethod
    def score(t, submission):
        {score}
"""


def draft(seed: int, kind: str = "novel", score: str = "", instruction: str = "") -> dict[str, Any]:
    """A draft that works: another one for every seed."""
    rng = random.Random(seed)
    a, b, c = (rng.randrange(10, 99) for _ in range(3))
    word = "".join(rng.choices("bcdfghjklmnprstvz", k=4) + rng.choices("aeiou", k=3))
    return {
        "thought": "why not",
        "name": f"{kind}_{word}",
        "description": f"Add two numbers as the {word}s of {rng.randrange(10**6)} do.",
        "capability": f"arithmetic of {word}",
        "difficulty": rng.randrange(1, 6),
        "example_instruction": f"{word}: {a} {b}",
        "reference": [
            {"instance": "1", "submission": str(a + b)},
            {"instance": "2", "submission": str(b + c)},
        ],
        "code": _SUMS.format(
            a=a,
            b=b,
            c=c,
            instruction=instruction or f"{word}: {{t['a']}} plus {{t['b']}}",
            score=score or "return float(submission.strip() == str(t['a'] + t['b']))",
        ),
    }


def scientist(body: dict[str, Any]) -> str:
    """Proposes and solves sums, is content with every draft, finds all new, grades by length."""
    asked, seed = purpose(body), int(body.get("seed", 0))
    text = body["messages"][-1]["content"]
    if asked == "propose":
        return json.dumps(draft(seed))
    if asked == "reflect":
        return json.dumps({**draft(seed), "done": True})
    if asked == "solve":
        return f"Answer: {sum(map(int, re.findall(r'[0-9]+', text)))}"
    if asked == "novelty":
        return json.dumps({"thought": "", "new": True})
    if asked == "gibberish":
        return json.dumps({"thought": "", "gibberish": False})
    return json.dumps({"thought": "", "score": len(text) % 11})


async def _serve(arguments: argparse.Namespace) -> None:
    async with _running(Script(scientist, latency=arguments.latency), arguments.port):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--latency", type=float, default=0.05)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))
