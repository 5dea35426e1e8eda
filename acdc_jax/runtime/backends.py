"""Who plays the scientist, the judge and the embedder in a run: built from the flags.

All of them are coroutines on one event loop in a thread of its own, so that they can be asked from
any thread and go on while the main one decodes. OpenAI's client is imported on first use.
"""

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from anyio.from_thread import BlockingPortal, start_blocking_portal

from acdc_jax import plugins
from acdc_jax.config import LLM_SCIENTISTS, Config
from acdc_jax.sandbox import Judge
from acdc_jax.tasks.embeddings import Embedder, NGrams, TaskIndex
from acdc_jax.tasks.llm import ChatModel
from acdc_jax.tasks.llm_scientist import LlmScientist
from acdc_jax.tasks.local_llm import LocalChat, LocalEmbedder, load_local_model
from acdc_jax.tasks.scientist import Scientist

if TYPE_CHECKING:
    from acdc_jax.tasks.openai_client import Endpoint


@dataclasses.dataclass(frozen=True)
class Backends:
    """The helpers of a run.

    Attributes:
        portal: runs their coroutines, from any thread.
        scientist: writes tasks.
        task_index: embeddings, which decide what is new.
        judge: grades answers for task code, from any thread; None without an LLM.
    """

    portal: BlockingPortal
    scientist: Scientist
    task_index: TaskIndex
    judge: Judge | None


@contextlib.contextmanager
def open_backends(config: Config, devices: Sequence[jax.Device]) -> Iterator[Backends]:
    """The helpers that the flags name; connections are closed at the end.

    Args:
        config: the flags.
        devices: where checkpoints of `local` lie.

    Raises:
        AcdcError: a checkpoint cannot be loaded, or it is not said whom to ask.
    """
    given = config.scientist
    task_index = TaskIndex(_embedder(config, devices))
    with start_blocking_portal("asyncio") as portal:
        if given.scientist in LLM_SCIENTISTS:
            chat = open_chat(config, devices)
            scientist: Scientist = LlmScientist(chat, given.reflections)
            close: Callable[[], Awaitable[None]] | None = chat.close
        else:
            make = plugins.load(plugins.SCIENTISTS, given.scientist)
            scientist = make(given, config.run.seed)
            close = getattr(scientist, "close", None)
        try:
            yield Backends(portal, scientist, task_index, _judge(portal, scientist))
        finally:
            if close is not None:
                portal.call(close)
            portal.call(task_index.close)


def _judge(portal: BlockingPortal, scientist: Scientist) -> Judge | None:
    """Return what grades answers for task code, from any thread, if the scientist can."""
    grade = getattr(scientist, "grade", None)
    if grade is None:
        return None

    def judge(instructions: str, submission: str, criteria: str) -> float:
        return float(portal.call(grade, instructions, submission, criteria))

    return judge


def open_chat(config: Config, devices: Sequence[jax.Device]) -> ChatModel:
    """The language model that the scientist's flags name; to be closed.

    Raises:
        AcdcError: a checkpoint cannot be loaded, or it is not said whom to ask.
    """
    given = config.scientist
    sampling = given.scientist_temperature, given.scientist_top_p, given.scientist_max_tokens
    if given.scientist == "openai":
        from acdc_jax.tasks.openai_client import OpenAIChat

        return OpenAIChat(_endpoint(config, given.scientist_url), given.scientist_model, *sampling)
    checkpoint = load_local_model(Path(given.scientist_model), devices)
    return LocalChat(checkpoint, *sampling, config.decode.batch_size)


def _embedder(config: Config, devices: Sequence[jax.Device]) -> Embedder:
    tasks = config.tasks
    if tasks.embeddings == "openai":
        from acdc_jax.tasks.openai_client import OpenAIEmbedder

        url = tasks.embedding_url or config.scientist.scientist_url
        return OpenAIEmbedder(_endpoint(config, url), tasks.embedding_model)
    if tasks.embeddings == "local":
        return LocalEmbedder(load_local_model(Path(tasks.embedding_model), devices))
    return NGrams()


def _endpoint(config: Config, url: str) -> "Endpoint":
    from acdc_jax.tasks.openai_client import Endpoint

    given = config.scientist
    return Endpoint(
        url, given.scientist_concurrency, given.scientist_timeout_s, given.scientist_retries
    )
