"""Servers that cannot do what a run needs are refused at the start, in one line with the remedy."""

import dataclasses
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from acdc_jax import experiment
from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.models import find_model
from acdc_jax.runtime import setup
from acdc_jax.runtime.backend_checks import check_backends
from acdc_jax.tasks.options import NoveltyOptions, ScientistOptions
from acdc_jax.tasks.task_sets import load_seed_families
from tests.support.scripted_server import Script, scientist, serving

Refusal = Callable[[dict[str, Any]], tuple[int, str] | None]

_CHAT, _EMBEDDINGS = "Qwen/Qwen2.5-72B-Instruct", "intfloat/e5-mistral-7b-instruct"


def _only(model: str) -> Refusal:
    """As vLLM, which serves one model."""
    return lambda body: (
        None if body["model"] == model else (404, f"The model `{body['model']}` does not exist.")
    )


def _reasoning(body: dict[str, Any]) -> tuple[int, str] | None:
    if "max_tokens" in body:
        return 400, "Unsupported parameter: 'max_tokens'; use 'max_completion_tokens' instead."
    return None


def _default_temperature(body: dict[str, Any]) -> tuple[int, str] | None:
    """It takes greedy requests, but no sampled ones."""
    return (400, "Unsupported value: 'temperature'") if body.get("temperature", 1) else None


def _without(field: str, status: int) -> Refusal:
    return lambda body: (status, f"extra_forbidden: body.{field}") if field in body else None


def _no_system(body: dict[str, Any]) -> tuple[int, str] | None:
    if "messages" in body and body["messages"][0]["role"] == "system":
        return 400, "System role not supported"
    return None


def _config(url: str, embedding_url: str | None = None, model: str = _CHAT) -> Config:
    return dataclasses.replace(
        Config(),
        scientist=ScientistOptions(model=model, url=url, retries=0, timeout_s=2.0),
        novelty=NoveltyOptions(
            embeddings="openai", embedding_model=_EMBEDDINGS, embedding_url=embedding_url
        ),
    )


def _check(config: Config) -> None:
    check_backends(config, load_seed_families("tiny", 0)[0])


def _refusal(config: Config, kind: type[AcdcError] = ConfigError) -> str:
    with pytest.raises(AcdcError) as caught:
        _check(config)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_servers_are_asked_as_the_run_asks() -> None:
    """Greedy and sampled, with a system message and a schema."""
    chat, embeddings = Script(scientist), Script(scientist, refusal=_only(_EMBEDDINGS))
    with serving(chat) as url, serving(embeddings) as embedding_url:
        _check(_config(url, embedding_url))
    assert [body["temperature"] for body in chat.seen] == [0] * 3 + [0.7] * 3
    assert all("response_format" in body for body in chat.seen)
    assert {body["max_tokens"] for body in chat.seen} == {2000}
    assert {len(body["messages"]) for body in chat.seen} == {2}


@pytest.mark.parametrize("models", [None, [_CHAT]])
def test_embeddings_at_a_server_of_another_model(models: Sequence[str] | None) -> None:
    """The command in the header of each paper_*.flags, which gave one URL."""
    script = Script(scientist, refusal=_only(_CHAT), models=models)
    with serving(script) as url:
        error = _refusal(_config(url))
    assert error.startswith(f"--embedding_url={url}: the server has no {_EMBEDDINGS} (status 404")
    assert "does not exist" in error
    assert error.endswith("name another server with --embedding_url")
    assert (f"it lists {_CHAT}: name one of these with --embedding_model" in error) == bool(models)


def test_a_chat_model_where_an_embedding_model_belongs() -> None:
    """vLLM lists the model, but refuses to embed with it."""

    def refusal(body: dict[str, Any]) -> tuple[int, str] | None:
        return (400, "The model does not support Embeddings API") if "input" in body else None

    with serving(Script(scientist, refusal=refusal, models=[_CHAT, _EMBEDDINGS])) as url:
        error = _refusal(_config(url))
    assert "refuses a first request to intfloat/e5" in error
    assert "(status 400: The model does not support Embeddings API)" in error
    assert "(--embedding_url, --embedding_model)" in error


def test_an_address_without_v1() -> None:
    with serving(Script(scientist, models=[_CHAT])) as url:
        error = _refusal(_config(url.removesuffix("/v1")))
    assert "(status 404: " in error
    assert "most end in /v1: correct --scientist_url" in error


def test_another_model_name() -> None:
    script = Script(scientist, refusal=_only("qwen"), models=["qwen", *map(str, range(20))])
    with serving(script) as url:
        error = _refusal(_config(url))
    assert f"--scientist_url={url}: the server has no {_CHAT} (status 404" in error
    assert "it lists qwen, 0, 1, 2, 3, 4, 5, 6…: name one of these with --scientist_model" in error


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789")
    script = Script(scientist, refusal=lambda body: (status, "Invalid key: sk-wrong-0123456789"))
    with serving(script) as url:
        error = _refusal(_config(url))
    assert f"--scientist_url={url}: the server refuses the API key for {_CHAT}" in error
    assert f"status {status}: Invalid key: …" in error
    assert "set OPENAI_API_KEY" in error
    assert "sk-wrong" not in error


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (_reasoning, "status 400: Unsupported parameter: 'max_tokens'"),
        (_default_temperature, "status 400: Unsupported value: 'temperature'"),
        (_without("seed", 422), "status 422: extra_forbidden: body.seed"),
        (_without("top_p", 400), "status 400: extra_forbidden: body.top_p"),
        (_no_system, "status 400: System role not supported"),
    ],
)
def test_a_scientist_that_refuses_what_each_request_contains(refusal: Refusal, said: str) -> None:
    with serving(Script(scientist, refusal=refusal, models=[_CHAT])) as url:
        error = _refusal(_config(url))
    assert error.startswith(f"--scientist_url={url}: the server refuses a first request to {_CHAT}")
    assert said in error
    assert "(--scientist_url, --scientist_model) that take a system message, seed" in error


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_refuses_single_requests_is_taken(status: int) -> None:
    """It has reasons against one question or one text, not against all."""

    def refusal(body: dict[str, Any]) -> tuple[int, str] | None:
        text = body["messages"][-1]["content"] if "messages" in body else body["input"][0]
        return (status, "no colours here") if "colour" in text else None

    with serving(Script(scientist, refusal=refusal)) as url:
        _check(_config(url))


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    error = _refusal(_config(url), AcdcError)
    assert error.startswith(f"--scientist_url: {url} does not answer after 1 tries")
    assert "start the server" in error


def test_embeddings_that_are_no_vectors() -> None:
    """Zero, which has no direction."""
    with serving(Script(scientist)) as url:
        _check(_config(url))
    with pytest.MonkeyPatch.context() as patch, serving(Script(scientist)) as url:
        patch.setattr("tests.support.scripted_server._direction", lambda text: [0.0, 0.0])
        error = _refusal(_config(url), AcdcError)
    assert "--embedding_url" in error
    assert (
        f"zero or not finite; use another embedding model (--embedding_model={_EMBEDDINGS})"
        in error
    )


# ------------------------------------------------------------------------------------ whole runs


def test_before_any_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Within seconds, with the paper's own flag file."""
    paper = Path(__file__).parents[2] / "configs" / "paper_qwen2_5_7b.flags"

    def fetch(*_: Any, **__: Any) -> Any:
        pytest.fail("a model was looked for")

    monkeypatch.setattr(find_model, "find_model", fetch)
    monkeypatch.setattr(setup, "check_folders", fetch)
    with serving(Script(scientist, refusal=_only(_CHAT), models=[_CHAT])) as url:
        began = time.monotonic()
        flags = [f"--flagfile={paper}", f"--scientist_url={url}", f"--run_dir={tmp_path / 'run'}"]
        assert main(["run", *flags]) == 2
    assert time.monotonic() - began < 10
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"acdc: --embedding_url={url}: the server has no {_EMBEDDINGS}" in error
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_no_server(
    initial_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = dataclasses.replace(Config(), run=dataclasses.replace(Config().run, generations=0))
    run = dataclasses.replace(config.run, run_dir=str(initial_run))
    asked: list[bool] = []

    def plan_run(config: Config, *, ask_backends: bool, try_families: bool) -> Any:
        assert try_families == ask_backends
        asked.append(ask_backends)
        raise AcdcError("planned")

    monkeypatch.setattr(experiment, "plan_run", plan_run)
    from rich.console import Console

    for results in (None, {"sets": [{"name": None}]}):
        monkeypatch.setattr(experiment.run_reader, "read_results", lambda *_, r=results: r)
        with pytest.raises(AcdcError, match="planned"):
            experiment.run_experiment(dataclasses.replace(config, run=run), Console(quiet=True))
    assert asked == [True, False]


def test_a_local_scientist_with_a_short_window(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Known before its weights are read; a Hub id or a folder."""
    folder = write_model(tmp_path / "scientist", max_positions=4096)
    (folder / "model.safetensors").unlink()

    def config(max_tokens: int) -> Config:
        options = ScientistOptions(kind="local", model=str(folder), max_tokens=max_tokens)
        return dataclasses.replace(Config(), scientist=options)

    _check(config(100))
    for max_tokens, remedy in ((4000, "lower it"), (9000, "lower it")):
        error = _refusal(config(max_tokens))
        assert error.startswith(f"--scientist_max_tokens={max_tokens}: a prompt of ")
        assert f"window of 4096; {remedy}" in error
    options = ScientistOptions(kind="local", model=str(tmp_path / "gone"))
    gone = dataclasses.replace(Config(), scientist=options)
    assert f"--scientist_model={tmp_path / 'gone'}: " in _refusal(gone, AcdcError)
    (folder / "config.json").write_text('{"architectures": ["MistralModel"]}')
    local = NoveltyOptions(embeddings="local", embedding_model=str(folder))
    unsupported = dataclasses.replace(
        Config(), novelty=local, scientist=ScientistOptions(kind="procedural")
    )
    error = _refusal(unsupported, AcdcError)
    assert error.startswith(f"--embedding_model={folder}: ")
    assert "unsupported architecture 'MistralModel'" in error
    assert error.endswith("or use a server that has the model")
