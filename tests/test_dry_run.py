"""`acdc run --dry_run` finds what is wrong with a run, says what it takes, and leaves nothing."""

import dataclasses
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acdc_jax import dry_run
from acdc_jax.bench.limits import SHAPES
from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.dry_run import count_work, decode_seconds, duration
from acdc_jax.runtime.run_directory import check_directory
from acdc_jax.tasks.task import Draft
from tests.support.paper_models import REPOSITORIES, write_repositories
from tests.support.scripted_server import Script, scientist, serving
from tests.support.short_runs import write_families

_CONFIGS = Path(__file__).parents[1] / "configs"
# A seed family may be easy to guess: a person chose it.
_GUESSABLE = Draft(
    "parity",
    "Whether a number is odd.",
    "arithmetic",
    1,
    "Is 3 odd?",
    """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {"1": {"n": 3}, "2": {"n": 4}}

    @staticmethod
    def get_instructions(t):
        return f"Is {t['n']} odd?"

    @staticmethod
    def score(t, submission):
        return float(submission.lower() == ("yes" if t["n"] % 2 else "no"))
""",
    "seed",
)
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
    monkeypatch.setattr(dry_run, "copy_bandwidth", lambda: 1e11)  # which takes seconds to measure
    write_repositories(name, tmp_path, chat_tokenizer_folder)
    flags = [f"--flagfile={_CONFIGS / name}.flags", "--dry_run", *servers]
    if name != "paper_qwen2_5_7b":  # whose own families are checked
        write_families([_GUESSABLE], tmp_path / "families")
        flags.append("--seed_families=families")
    assert main(["run", *flags]) == 0, capsys.readouterr().err
    plan = " ".join(capsys.readouterr().out.split())
    assert "in bfloat16" in plan  # the base's, whatever one seed has
    assert f"{len(REPOSITORIES[name]) - (name != 'paper_qwen3_14b')} seeds" in plan
    assert f"{_CHAT} at http" in plan
    assert ("its window is 2048 tokens" in plan) == name.startswith("paper_qwen2_")
    assert ("have the same licence, chat template" in plan) != name.startswith("paper_qwen2_")
    assert "No fault found" in plan
    assert {path.name for path in tmp_path.iterdir()} - {"families"} == {
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


def test_work_that_is_left_on_resume() -> None:
    """After generation 27: 23 generations and the adaptations of 30, 35, 40, 45 and 50."""
    left, whole = count_work(Config(), 27), count_work(Config())
    assert left.evolution == 23 * 8 * 250 + 5 * 16 * 150
    assert left.drafts == 5 * 150
    assert left.afterwards == whole.afterwards
    assert count_work(Config(), 0).evolution == whole.evolution - 16 * 250


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        ((1e-6, 4e-6), "less than a minute"),
        ((0.1, 0.4), "6 to 24 min"),
        ((1.5, 6.04), "1.5 to 6 h"),
        ((120.4, 1800), "120 to 1,800 h"),
        ((3, 3), "3 h"),
    ],
)
def test_times_are_easy_to_read(hours: tuple[float, float], text: str) -> None:
    assert duration(hours) == text


def test_directories_in_which_no_run_can_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, full, used = tmp_path / "file", tmp_path / "full", tmp_path / "used"
    file.write_text("")
    full.mkdir()
    (full / "notes.txt").write_text("")
    used.mkdir()
    with (used / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        faults = {
            file: "Not a directory",
            file / "run": "Not a directory",
            full: "is not empty and holds no run",
            used: "another process is running there",
        }
        for run_dir, fault in faults.items():
            assert main(["run", "--dry_run", f"--run_dir={run_dir}", "--scientist_model=m"]) == 1
            error = capsys.readouterr().err
            assert fault in error
            assert f"--run_dir={run_dir}:" in error
    for new in (tmp_path / "a folder" / "名", used):
        check_directory(new)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "full", "used"}
