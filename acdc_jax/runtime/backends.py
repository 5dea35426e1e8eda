"""Open the scientist, the judge and the embeddings of a run, as its options name them.

Their coroutines run on one event loop in a separate thread: any thread can call them, and they
continue while the main thread decodes. The OpenAI client is imported only if it is used.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
from anyio.from_thread import BlockingPortal, start_blocking_portal

from acdc_jax import plugins
from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.sandbox import Judge
from acdc_jax.tasks.embeddings import Embedder, NGrams, TaskIndex
from acdc_jax.tasks.llm import ChatModel
from acdc_jax.tasks.llm_scientist import LlmScientist
from acdc_jax.tasks.local_llm import LocalChat, LocalEmbedder, load_local_model
from acdc_jax.tasks.options import LLM_SCIENTISTS, ScientistOptions
from acdc_jax.tasks.scientist import Grader, Scientist

if TYPE_CHECKING:
    from acdc_jax.tasks.openai_client import Endpoint

_BATCHES_IN_FLIGHT = 4  # of generation 0's drafts, at a server; results depend on it


@dataclasses.dataclass(frozen=True)
class Backends:
    """The scientist, the embeddings and the judge of a run.

    Attributes:
        portal: Calls coroutines of the others, from any thread.
        scientist: Writes tasks and recognises gibberish.
        task_index: Embeds tasks, to find out which drafts are new.
        judge: Grades answers for task code, from any thread; None if the scientist cannot.
    """

    portal: BlockingPortal
    scientist: Scientist
    task_index: TaskIndex
    judge: Judge | None


@contextlib.contextmanager
def open_backends(config: Config, devices: Sequence[jax.Device]) -> Iterator[Backends]:
    """Open a run's backends, and close them at the end.

    Args:
        config: The run's options.
        devices: Where local models are placed.

    Raises:
        AcdcError: A local model cannot be loaded, or a server or scientist is not configured.
    """
    task_index = TaskIndex(open_embedder(config, devices))
    with start_blocking_portal("asyncio") as portal:
        scientist = _open_scientist(config, devices)
        try:
            yield Backends(portal, scientist, task_index, _make_judge(portal, scientist))
        finally:
            portal.call(scientist.close)
            portal.call(task_index.close)


def open_chat(
    options: ScientistOptions, devices: Sequence[jax.Device], batch_size: int
) -> ChatModel:
    """Return the language model of a scientist or judge. The caller closes it.

    Args:
        options: Its options.
        devices: Where a local model is placed.
        batch_size: Requests that a local model decodes at once.

    Raises:
        AcdcError: A local model cannot be loaded, or no server is configured.
    """
    sampling = options.temperature, options.top_p, options.max_tokens
    if options.kind == "openai":
        from acdc_jax.tasks.openai_client import OpenAIChat

        endpoint = open_endpoint(options, options.url)
        return OpenAIChat(endpoint, _required(options.model), *sampling)
    model = load_local_model(_required(options.model), devices)
    return LocalChat(model, *sampling, batch_size)


def _open_scientist(config: Config, devices: Sequence[jax.Device]) -> Scientist:
    """Return a language model as scientist, or a registered one."""
    options = config.scientist
    if options.kind in LLM_SCIENTISTS:
        chat = open_chat(options, devices, config.decode.batch_size)
        # What a local model decodes in one batch must not depend on timing.
        in_flight = _BATCHES_IN_FLIGHT if options.kind == "openai" else 1
        return LlmScientist(chat, options.reflections, in_flight, config.tasks.judged_tasks)
    make = plugins.load(plugins.SCIENTISTS, options.kind)
    scientist: object = make(options, config.run.seed, config.tasks)
    if not isinstance(scientist, Scientist):
        raise ConfigError(
            f"the registered scientist {options.kind!r} is a {type(scientist).__name__}; make "
            "it a subclass of acdc_jax.tasks.scientist.Scientist"
        )
    return scientist


def _make_judge(portal: BlockingPortal, scientist: Scientist) -> Judge | None:
    """Return the scientist's `grade` as a function for any thread, if it has one."""
    if not isinstance(scientist, Grader):
        return None

    def judge(instructions: str, submission: str, criteria: str) -> float:
        return portal.call(scientist.grade, instructions, submission, criteria)

    return judge


def open_embedder(config: Config, devices: Sequence[jax.Device]) -> Embedder:
    """Return what measures how similar tasks are. The caller closes it.

    Args:
        config: The run's options.
        devices: Where a local model is placed.

    Raises:
        AcdcError: A local model cannot be loaded, or no server is configured.
    """
    options = config.novelty
    if options.embeddings == "openai":
        from acdc_jax.tasks.openai_client import OpenAIEmbedder

        url = options.embedding_url or config.scientist.url
        return OpenAIEmbedder(
            open_endpoint(config.scientist, url), _required(options.embedding_model)
        )
    if options.embeddings == "local":
        return LocalEmbedder(load_local_model(_required(options.embedding_model), devices))
    return NGrams()


def _required(model: str | None) -> str:
    """Return the name of a model, which the options require."""
    assert model is not None
    return model


def open_endpoint(options: ScientistOptions, url: str | None) -> "Endpoint":
    """Return a server's client, without connecting. The caller closes it."""
    from acdc_jax.tasks.openai_client import Endpoint

    return Endpoint(url, options.concurrency, options.timeout_s, options.retries)
