"""`acdc run --dry_run` finds what is wrong with a run, says what it takes, and leaves nothing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.bench.limits import SHAPES
from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.dry_run import count_work, decode_seconds
from tests.support.paper_models import REPOSITORIES, write_repositories
from tests.support.scripted_server import Script, scientist, serving

_CONFIGS = Path(__file__).parents[1] / "configs"
_CHAT, _EMBEDDINGS = "Qwen/Qwen2.5-72B-Instruct", "intfloat/e5-mistral-7b-instruct"


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    """Two servers with one model each, and the flags that name them."""

    def only(model: str) -> Any:
        return lambda body: None if body["model"] == model else (404, "no such model")

    chat = Script(scientist, refusal=only(_CHAT), models=[_CHAT])
    embeddings = Script(scientist, refusal=only(_EMBEDDINGS), models=[_EMBEDDINGS])
    with serving(chat) as url, serving(embeddings) as embedding_url:
        yield [f"--scientist_url={url}", f"--embedding_url={embedding_url}"]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_papers_runs(
    name: str,
    servers: list[str],
    tmp_path: Path,
    chat_tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_repositories(name, tmp_path, chat_tokenizer_folder)
    flags = [f"--flagfile={_CONFIGS / name}.flags", "--dry_run", *servers]
    assert main(["run", *flags]) == 0, capsys.readouterr().err
    plan = " ".join(capsys.readouterr().out.split())
    assert "in bfloat16" in plan  # the base's, whatever one seed has
    assert f"{len(REPOSITORIES[name]) - (name != 'paper_qwen3_14b')} seeds" in plan
    assert f"{_CHAT} at http" in plan
    assert "No fault found" in plan
    assert {path.name for path in tmp_path.iterdir()} == {
        hub_id.partition("/")[0] for hub_id in REPOSITORIES[name]
    }


def test_a_fault_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [
        f"--flagfile={_CONFIGS / 'paper_llama3_8b.flags'}",
        "--dry_run",
        "--novelty_decision=threshold",
    ]
    flags += [
        "--scientist_url=http://127.0.0.1:9/v1",
        "--scientist_retries=0",
        "--scientist_timeout_s=1",
    ]
    assert main(["run", *flags]) != 0
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9/v1" in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_work_of_the_papers_run() -> None:
    """50 generations of 8 children on 250 tasks, 10 adaptations of 150 drafts."""
    work = count_work(Config())
    assert work.evolution == 16 * 250 + 50 * 8 * 250 + 10 * 16 * 150
    assert work.drafts == 300 + 10 * 150


def test_no_adaptation_and_no_drafts() -> None:
    config = Config()
    tasks = dataclasses.replace(
        config.tasks, task_interval=None, initial_tasks=0, active_seed_families=True
    )
    work = count_work(dataclasses.replace(config, tasks=tasks))
    assert (work.drafts, work.afterwards) == (0, 0)


def test_seconds_of_decoding() -> None:
    """One sequence without a cache to speak of: the weights, once a token."""
    seconds = decode_seconds(SHAPES["qwen2.5-7b"], 1, 100, 1, 4e12 / 0.75)
    assert seconds == pytest.approx(100 * 15.23e9 / 4e12, rel=0.01)
