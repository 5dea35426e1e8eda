"""Ask the servers of a run, and look at its local models, before anything large is loaded.

A server that is not there, has another model, or refuses what every request contains would
otherwise show after hours: the scientist's first request comes when the members are loaded, and the
gibberish filter's when all of them have answered.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from acdc_jax import multihost
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.find_model import find_model
from acdc_jax.runtime.backends import open_chat, open_embedder, open_endpoint
from acdc_jax.tasks import prompts
from acdc_jax.tasks.embeddings import TaskIndex
from acdc_jax.tasks.llm import ChatError, ChatRefusal, ChatRequest
from acdc_jax.tasks.one_failure import HARMLESS_QUESTIONS
from acdc_jax.tasks.options import ScientistOptions
from acdc_jax.tasks.task import Draft, Task

_SHOWN_MODELS = 8


@dataclasses.dataclass(frozen=True)
class _Server:
    """A server as the user knows it.

    Attributes:
        url: Its URL, or None for OpenAI's.
        model: The model that it is asked for.
        url_flag: Flag that names the server.
        model_flag: Flag that names the model.
        contents: What every request contains, besides texts.
    """

    url: str | None
    model: str
    url_flag: str
    model_flag: str
    contents: str


def check_backends(config: Config, family: Draft) -> None:
    """Refuse a scientist or an embedding model that cannot answer.

    The first process asks the servers; each local model's configuration is read.

    Args:
        config: Every setting.
        family: A seed family, with which a local scientist's first prompt is made.

    Raises:
        AcdcError: A server does not answer, or a local model is missing or not supported.
        ConfigError: A server refuses the key, the model or the request, or a local model's window
            is too small; names flag, URL and model.
    """
    scientist, novelty = config.scientist, config.novelty
    if scientist.kind == "local":
        _check_local_scientist(scientist, family)
    if novelty.embeddings == "local":
        _read_local_config("--embedding_model", novelty.embedding_model or "")
    if multihost.is_first() and "openai" in (scientist.kind, novelty.embeddings):
        with start_blocking_portal("asyncio") as portal:
            if scientist.kind == "openai":
                portal.call(check_chat_server, scientist)
            if novelty.embeddings == "openai":
                portal.call(_check_embedding_server, config)


async def check_chat_server(options: ScientistOptions, prefix: str = "scientist") -> None:
    """Ask a server greedy and sampled questions, as a run does. It must answer one of each.

    Args:
        options: The server and the model.
        prefix: What the names of the flags begin with.

    Raises:
        AcdcError: The server does not answer.
        ConfigError: It refuses the key, the model, or the request.
    """
    chat = open_chat(options, (), batch_size=1)

    async def ask() -> None:
        for sampled in (False, True):
            await _get_any(
                chat.complete(
                    ChatRequest("judge", text.system, text.user, 0, text.schema, sampled=sampled)
                )
                for text in (prompts.judge(*question) for question in HARMLESS_QUESTIONS)
            )

    server = _Server(
        options.url,
        options.model or "",
        f"--{prefix}_url",
        f"--{prefix}_model",
        f"a system message, seed, temperature, top_p and max_tokens={options.max_tokens}",
    )
    try:
        await _check(server, options, ask)
    finally:
        await chat.close()


async def _check_embedding_server(config: Config) -> None:
    """Ask for one embedding, which must be a vector of finite numbers, and not zero."""
    options = config.novelty
    index = TaskIndex(open_embedder(config, ()))

    async def ask() -> None:
        await _get_any(index.embed([question]) for question, _, _ in HARMLESS_QUESTIONS)

    server = _Server(
        options.embedding_url or config.scientist.url,
        options.embedding_model or "",
        "--embedding_url",
        "--embedding_model",
        "a list of texts and encoding_format=float",
    )
    try:
        await _check(server, config.scientist, ask)
    finally:
        await index.close()


async def _get_any(answers: Iterable[Awaitable[object]]) -> None:
    """Wait for answers; raise the first error if there is none."""
    results = await asyncio.gather(*answers, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if len(errors) == len(results):
        raise errors[0]


async def _check(
    server: _Server, options: ScientistOptions, ask: Callable[[], Awaitable[None]]
) -> None:
    """Ask, and explain a failure in the user's terms."""
    where = f"{server.url_flag}={server.url}" if server.url else server.url_flag
    try:
        await ask()
    except (ChatError, ChatRefusal) as error:
        if error.status is None or error.status == 429 or error.status >= 500:
            raise AcdcError(f"{server.url_flag}: {error}") from None
        endpoint = open_endpoint(dataclasses.replace(options, retries=0), server.url)
        try:
            models = await endpoint.list_models()
        finally:
            await endpoint.close()
        raise ConfigError(f"{where}: {_explain(server, error, models)}") from None
    except AcdcError as error:
        raise AcdcError(f"{where}: {error} ({server.model_flag}={server.model})") from None


def _explain(server: _Server, error: ChatError | ChatRefusal, models: list[str]) -> str:
    """Return what is wrong, and the remedy."""
    said = f"status {error.status}: {error.reason}"
    if error.status in (401, 403):
        return (
            f"the server refuses the API key for {server.model} ({said}); set OPENAI_API_KEY to a "
            "key of this server"
        )
    if error.status == 404 and not models and not (server.url or "/v1").rstrip("/").endswith("/v1"):
        return (
            f"the server has no such address ({said}); most end in /v1: correct {server.url_flag}"
        )
    listed = ", ".join(models[:_SHOWN_MODELS]) + ("…" if len(models) > _SHOWN_MODELS else "")
    if server.model not in models and (models or error.status == 404):
        return (
            f"the server has no {server.model} ({said}); "
            + (f"it lists {listed}: name one of these with" if models else "correct")
            + f" {server.model_flag}, or name another server with {server.url_flag}"
        )
    return (
        f"the server refuses a first request to {server.model} ({said}); name a server and a model "
        f"({server.url_flag}, {server.model_flag}) that take {server.contents}"
    )


def _check_local_scientist(options: ScientistOptions, family: Draft) -> None:
    """Compare the window of a local scientist with a first prompt and the longest answer."""
    folder, config = _read_local_config("--scientist_model", options.model or "")
    window = config.max_positions
    prompt = prompts.propose("novel", Task("", family, 0, {}, {}), [])
    tok = tokenizer.load_tokenizer(folder)
    length = len(encode_chat(tok, prompt.user, prompt.system))
    if length + options.max_tokens > window:
        room = max(window - length, 0)
        raise ConfigError(
            f"--scientist_max_tokens={options.max_tokens}: a prompt of {length} tokens leaves "
            f"room for {room} in {options.model}'s window of {window}; "
            + ("lower it" if room else "use another --scientist_model")
        )


def _read_local_config(flag: str, name: str) -> tuple[Path, ModelConfig]:
    """Return the folder and the configuration of a local model; no weights are fetched.

    Raises:
        AcdcError: There is no such model, or it is not supported; names the flag.
    """
    try:
        folder = find_model(name, weights=False)
        return folder, hf.declared_config(folder)
    except AcdcError as error:
        raise AcdcError(f"{flag}={name}: {error}; or use a server that has the model") from None
