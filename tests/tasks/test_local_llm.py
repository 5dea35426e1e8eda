"""A local model answers like transformers' own server, and independently of timing."""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from acdc_jax.tasks.llm import ChatRefusal, ChatRequest
from acdc_jax.tasks.local_llm import LoadedModel, LocalChat, LocalEmbedder, load_local_model
from acdc_jax.tasks.openai_client import Endpoint, OpenAIChat
from tests.support.chat_model import write_chat_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_local_model(folder, jax.devices()[:1])


def _request(number: int, *, sampled: bool, user: str = "") -> ChatRequest:
    words = user or f"Write a task about the number {number:03}"
    return ChatRequest("propose", "You are a scientist.", words, 1000 + number, None, sampled)


def _greedy(chat: LocalChat, requests: Sequence[ChatRequest]) -> list[str]:
    async def ask() -> list[str]:
        return await asyncio.gather(*map(chat.complete, requests))

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    """Return the base URL of `transformers serve` with the same model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()"]
    arguments = ["serve", str(folder), f"--port={port}", "--host=127.0.0.1", "--device=cpu"]
    process = subprocess.Popen(
        [*command, *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "transformers serve ended"
                assert time.monotonic() < deadline, "transformers serve does not listen"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def test_greedy_answers_equal_those_of_a_real_server(
    served: str, folder: Path, model: LoadedModel
) -> None:
    requests = [_request(i, sampled=False) for i in range(3)]

    async def ask() -> list[str]:
        chat = OpenAIChat(Endpoint(served, 2, 60.0, 2), str(folder), 0.7, 1.0, 12)
        try:
            return await asyncio.gather(*map(chat.complete, requests))
        finally:
            await chat.close()

    theirs = asyncio.run(ask())
    ours = _greedy(LocalChat(model, 0.7, 1.0, 12, 4), requests)
    assert theirs == [text.strip() for text in ours]  # the server strips answers
    assert len(set(ours)) > 1


def test_sampled_answers_do_not_depend_on_timing(model: LoadedModel) -> None:
    def rounds(shuffle: int) -> tuple[list[list[str]], float]:
        chat, rng = LocalChat(model, 1.0, 0.95, 12, 4), random.Random(shuffle)

        async def author(number: int) -> list[str]:
            said = []
            async with chat.drafting():
                for step in range(1 + number % 3):  # some coroutines end earlier
                    for _ in range(rng.randrange(30)):
                        await asyncio.sleep(0)
                    said.append(await chat.complete(_request(10 * number + step, sampled=True)))
            return said

        async def all_of_them() -> list[list[str]]:
            judge = asyncio.ensure_future(chat.complete(_request(99, sampled=False)))
            said = await asyncio.gather(*map(author, range(6)))
            return [*said, [await judge]]

        texts = asyncio.run(all_of_them())
        return texts, chat.usage.take()["llm_propose_calls"]

    first, calls = rounds(0)
    assert calls == 13
    assert rounds(1) == rounds(2) == (first, calls)
    assert len({text for said in first for text in said}) > 10


def test_a_model_on_several_devices_gives_the_same_answers(
    folder: Path, model: LoadedModel
) -> None:
    spread = load_local_model(folder, jax.devices()[2:])
    assert spread.params["layers.0.mlp.up.weight"].sharding.device_set == {*jax.devices()[2:]}
    requests = [_request(1, sampled=False, user="Hello.")]
    chats = [LocalChat(each, 0.7, 1.0, 12, 4) for each in (model, spread)]
    assert _greedy(chats[0], requests) == _greedy(chats[1], requests)


def test_a_prompt_that_is_too_long_is_refused_alone(model: LoadedModel) -> None:
    chat = LocalChat(model, 1.0, 0.95, 12, 4)
    long = _request(0, sampled=False, user="word " * 9000)

    async def ask() -> list[str | BaseException]:
        both = (long, _request(1, sampled=False))
        return await asyncio.gather(*map(chat.complete, both), return_exceptions=True)

    refused, answered = asyncio.run(ask())
    assert isinstance(refused, ChatRefusal)
    assert "leaves no room" in str(refused)
    assert isinstance(answered, str)


def test_embeddings_are_the_mean_of_transformers_hidden_states(
    folder: Path, model: LoadedModel
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["Sum two numbers.", "Write a limerick about a lighthouse keeper in the rain.", "x"]
    found = asyncio.run(LocalEmbedder(model).embed(texts))
    torch_model = AutoModel.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    for text, row in zip(texts, found, strict=True):
        with torch.no_grad():
            states = torch_model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        np.testing.assert_allclose(row, states.mean(0).numpy(), atol=1e-5)
    alone = asyncio.run(LocalEmbedder(model).embed(texts[:1]))
    np.testing.assert_array_equal(found[:1], alone)
