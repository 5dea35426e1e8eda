"""The client, with a server that has all kinds of faults."""

import asyncio
import json
import socket
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest
from openai import AsyncOpenAI, OpenAIError

from acdc_jax.errors import ConfigError
from acdc_jax.tasks.llm import ChatError, ChatRefusal, ChatRequest
from acdc_jax.tasks.openai_client import Endpoint, OpenAIChat, OpenAIEmbedder
from tests.support.scripted_server import FAULTS, Script, scientist, serving

T = TypeVar("T")

_SCHEMA = {"type": "object"}


def _request(number: int, **changes: Any) -> ChatRequest:
    fields = {"purpose": "propose", "system": "be brief", "user": f"question {number}"}
    return ChatRequest(**({**fields, "seed": number, "schema": _SCHEMA} | changes))


def _echo(body: dict[str, Any]) -> str:
    return json.dumps([body["messages"][-1]["content"], body["seed"]])


def _ask(
    url: str, requests: list[ChatRequest], retries: int = 4, timeout: float = 1.0, at_once: int = 16
) -> tuple[list[str | BaseException], dict[str, float]]:
    async def all_of_them() -> Any:
        chat = OpenAIChat(Endpoint(url, at_once, timeout, retries), "m", 0.7, 0.9, 99)
        answers = await asyncio.gather(*map(chat.complete, requests), return_exceptions=True)
        await chat.close()
        return answers, chat.usage.take()

    return asyncio.run(all_of_them())


def _closing(endpoint: Endpoint, work: Coroutine[Any, Any, T]) -> T:
    async def both() -> T:
        try:
            return await work
        finally:
            await endpoint.close()

    return asyncio.run(both())


def test_request_body() -> None:
    script = Script(_echo)
    with serving(script) as url:
        answers, usage = _ask(url, [_request(7), _request(8, sampled=False, schema=None)])
    assert answers == ['["question 7", 7]', '["question 8", 8]']
    by_seed = {body["seed"]: body for body in script.seen}
    assert by_seed[7] == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "question 7"},
        ],
        "seed": 7,
        "max_tokens": 99,
        "temperature": 0.7,
        "top_p": 0.9,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "propose", "schema": _SCHEMA, "strict": True},
        },
    }
    assert by_seed[8]["temperature"] == 0
    assert "response_format" not in by_seed[8]
    seconds = usage.pop("llm_propose_seconds")
    assert 0 < seconds < 10
    assert usage == {
        "llm_propose_calls": 2,
        "llm_propose_prompt_tokens": 200,
        "llm_propose_new_tokens": 20,
    }


def test_half_a_surrogate_pair_is_replaced() -> None:
    """It could not be stored or sent. A pair of halves is one character."""
    with serving(Script(lambda body: "a \ud83d b \ud83d\ude00")) as url:
        [answer], _ = _ask(url, [_request(7)])
    assert answer == "a \ufffd b 😀"


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_empty_answer_is_not_retried(text: Any) -> None:
    """The model refuses, or its thoughts took all tokens; a retry would not change that."""
    script = Script(lambda body: text if body["seed"] == 1 else _echo(body))
    with serving(script) as url:
        answers, usage = _ask(url, [_request(1), _request(2)])
    assert answers == ["(no text)", '["question 2", 2]']
    assert len(script.seen) == 2  # one request each, with its schema
    assert all("response_format" in body for body in script.seen)
    assert usage["llm_propose_calls"] == 2


def test_answers_do_not_depend_on_faults_of_the_server() -> None:
    requests = [_request(i) for i in range(100)]
    script = Script(_echo, fault_rate=0.7, stall=1.0)
    with serving(script) as url:
        answers, _ = _ask(url, requests, timeout=0.5, at_once=32)
    assert answers == [json.dumps([f"question {i}", i]) for i in range(100)]
    assert set(script.failed) == set(FAULTS)


def test_concurrency_is_bounded() -> None:
    script = Script(_echo, latency=0.02)
    with serving(script) as url:
        _ask(url, [_request(i) for i in range(20)], at_once=3)
    assert script.most_at_once == 3


def test_retry_after_is_obeyed() -> None:
    script = Script(_echo, fault_rate=1.0, faults=("429",))
    with serving(script) as url:
        began = time.monotonic()
        (answer,), _ = _ask(url, [_request(2)])  # the client's own pause is at least 0.375 s
    assert answer == '["question 2", 2]'
    assert time.monotonic() - began >= 0.05


def test_a_server_that_refuses_schemas_is_asked_without() -> None:
    script = Script(_echo, refuses_schema=True)

    async def one_by_one() -> list[str]:
        chat = OpenAIChat(Endpoint(url, 1, 1.0, 0), "m", 0.7, 0.9, 99)
        answers = [await chat.complete(_request(i)) for i in range(5)]
        await chat.close()
        return answers

    with serving(script) as url:
        assert asyncio.run(one_by_one()) == [f'["question {i}", {i}]' for i in range(5)]
    assert not any("response_format" in body for body in script.seen)
    assert script.refused == 3  # and then no more schemas are sent


def test_a_request_that_is_refused_leaves_the_schemas_of_others() -> None:
    script = Script(_echo, refuses_schema=lambda body: body["seed"] % 4 == 0)
    with serving(script) as url:
        answers, _ = _ask(url, [_request(i) for i in range(20)], at_once=1)
    assert answers == [f'["question {i}", {i}]' for i in range(20)]
    assert [body["seed"] for body in script.seen if "response_format" not in body] == [
        *range(0, 20, 4)
    ]


@pytest.mark.parametrize("usage", [None, "much", 3, {"prompt_tokens": None}])
def test_an_answer_whose_usage_cannot_be_read_is_an_answer(usage: Any) -> None:
    script = Script(_echo, usage=usage)
    with serving(script) as url:
        answers, counts = _ask(url, [_request(1)])
    assert answers == ['["question 1", 1]']
    assert counts["llm_propose_new_tokens"] == 0


@pytest.mark.parametrize("fault", ["500", "no choices", "no message", "truncated"])
def test_a_permanent_fault_is_an_error(fault: str) -> None:
    script = Script(_echo, fault_rate=1.0, faults=(fault,))
    with serving(script) as url:
        (answer,), _ = _ask(url, [_request(1)], retries=0)
    assert isinstance(answer, ChatError)
    assert url in str(answer)
    assert "\n" not in str(answer)


def test_an_unreachable_server_is_an_error() -> None:
    (answer,), _ = _ask("http://127.0.0.1:9/v1", [_request(1)], retries=0)
    assert isinstance(answer, ChatError)
    assert "start the server" in str(answer)


def test_a_refused_request_is_a_refusal() -> None:
    script = Script(_echo, refuses_schema=True)

    async def refused() -> None:
        endpoint = Endpoint(url, 1, 1.0, 0)
        try:
            await endpoint.ask(
                lambda client: client.chat.completions.create(
                    model="m", messages=[], response_format={"type": "json_object"}
                )
            )
        finally:
            await endpoint.close()

    with serving(script) as url, pytest.raises(ChatRefusal, match="not supported"):
        asyncio.run(refused())


def test_the_key_comes_from_the_environment_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234\n")  # with the line break of a file
    script = Script(lambda body: "I was told sk-secret-1234", down=lambda body: True)
    with serving(script) as url:
        (answer,), _ = _ask(url, [_request(1)], retries=0)
    assert script.keys == {"Bearer sk-secret-1234"}
    assert "sk-secret" not in str(answer)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
        Endpoint(None, 1, 1.0, 0)


@pytest.mark.parametrize("before", [10, 280])
def test_no_part_of_the_key_is_repeated(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret-0123456789012345678901234567890\n")
    endpoint = Endpoint("http://127.0.0.1:9/v1", 1, 1.0, 0)

    async def say(client: AsyncOpenAI) -> None:
        raise OpenAIError("x" * before + f" Bearer {client.api_key}")

    with pytest.raises(ChatError) as error:
        _closing(endpoint, endpoint.ask(say))
    assert "Bearer …" in str(error.value)
    assert "sk-" not in str(error.value)


def test_embeddings_are_in_order_and_in_batches() -> None:
    texts = [f"text {i} of many" for i in range(300)]
    with serving(Script(scientist, fault_rate=0.5, stall=1.2)) as url:
        endpoint = Endpoint(url, 4, 1.0, 4)
        rows = _closing(endpoint, OpenAIEmbedder(endpoint, "e").embed(texts))
        endpoint = Endpoint(url, 4, 1.0, 4)
        again = _closing(endpoint, OpenAIEmbedder(endpoint, "e").embed(texts[::-1]))
    assert rows.shape == (300, 64)
    np.testing.assert_array_equal(rows, again[::-1])
    assert len(np.unique(rows, axis=0)) > 40


@pytest.mark.parametrize("fault", FAULTS)
def test_embeddings_survive_every_fault(fault: str) -> None:
    with serving(Script(scientist, fault_rate=1.0, faults=(fault,), stall=0.5)) as url:
        endpoint = Endpoint(url, 4, 0.4, 4)
        assert _closing(endpoint, OpenAIEmbedder(endpoint, "e").embed(["a"])).shape == (1, 64)


def test_failed_embeddings_are_an_error() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", 4, 1.0, 0)
    with pytest.raises(ChatError):
        _closing(endpoint, OpenAIEmbedder(endpoint, "e").embed(["a"]))


def test_a_refused_connection_is_no_timeout() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ((error,), _) = _ask(f"http://127.0.0.1:{port}/v1", [_request(1)], retries=0)
    assert isinstance(error, ChatError)
    assert f"Cannot connect to host 127.0.0.1:{port}" in str(error)
    assert "timed out" not in str(error)
