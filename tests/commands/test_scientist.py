"""Whole runs in which an LLM writes, compares and judges the tasks."""

import dataclasses
import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from acdc_jax.models import hf_export
from acdc_jax.models.transformer import init_params
from acdc_jax.quickstart.tokenizer import EOS, TOKEN_IDS
from acdc_jax.tasks.task import load_task
from acdc_jax.tasks.trial_answers import GUESSES, JUNK
from tests.support.chat_model import write_chat_model
from tests.support.model_runs import SMALL
from tests.support.scripted_server import Script, draft, purpose, serving

pytestmark = pytest.mark.slow

Run = Callable[..., int]

_FLAGS = (
    "--seed=1",  # with it, a parent comes back from limbo
    "--generations=6",
    "--task_interval=2",
    "--initial_tasks=18",
    "--new_tasks=16",
    "--max_tasks=30",
    "--medium_novel_probability=0.5",
    "--nodiscard_impossible",
    "--max_new_tokens=12",
    "--batch_size=32",
    "--mutation=gaussian",
    "--mutation_scale=0.3",
    "--mutation_relative",
    "--gibberish_filter",
    "--system_prompt=",
    "--seed_families=tiny",
    "--novelty_decision=llm",
    "--embeddings=openai",
    "--embedding_model=e",
    "--reflections=2",
)

# Whether a submission is right is a matter of luck, with a probability that the draft's kind sets:
# random members then find easy, medium, hard and impossible tasks. Short for the members' window.
_LUCK = """\
import hashlib
        if submission.startswith("right"):
            return float(submission.strip() == "right " + t["text"][-2:])
        if len(submission) < 2 or submission in (t["text"], *{junk}):
            return 0.0
        return float(hashlib.sha256((t["text"] + submission).encode()).digest()[0] < {chance})"""
_JUDGED = """\
if submission.startswith("right"):
            return float(submission.strip() == "right " + t["text"][-2:])
        return eval_with_llm_judge(t["text"], submission, "luck")"""
_CODE = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {{"1": {{"text": "{word} ab"}}, "2": {{"text": "{word} cd"}}}}

    @staticmethod
    def get_instructions(t):
        return t["text"]

    @staticmethod
    def score(t, submission):
        {score}
"""
_JUNK = (*JUNK, *GUESSES)
_KINDS = {
    "unrelated to the ones": ("novel", 110),
    "takes up one idea": ("inspired", 110),
    "Write a clearly harder": ("harder", 0),
    "Write a clearly easier": ("easier", 250),
    "different skill of that field": ("related", 110),
}


def _write(body: dict[str, Any], judged: float) -> dict[str, Any]:
    seed, text = int(body["seed"]), " ".join(body["messages"][-1]["content"].split())
    kind, chance = next(_KINDS[words] for words in _KINDS if words in text)
    rng = random.Random(seed)
    word = "".join(rng.choices("abcdefgh", k=5))
    score = (
        _JUDGED
        if rng.random() < judged
        else _LUCK.format(chance=chance if seed % 4 else 110, junk=_JUNK)
    )
    pairs = [("1", "right ab"), ("2", "right cd")]
    references = [{"instance": key, "submission": text} for key, text in pairs]
    code = _CODE.format(word=word, score=score)
    if rng.random() < 0.2 or "lacks score" in text:
        code = code.replace("def score", "def scor")
    return {**draft(seed, kind), "reference": references, "code": code}


def _rule(body: dict[str, Any], judged: float = 0.3) -> str:
    asked, text = purpose(body), body["messages"][-1]["content"]
    luck = random.Random(text)
    if asked == "propose":
        return json.dumps(_write(body, judged))
    if asked == "reflect":
        return json.dumps(_write(body, judged) | {"done": luck.random() < 0.6})
    if asked == "solve":
        return f"Answer: right {text.strip()[-2:]}"
    if asked == "novelty":
        return json.dumps({"thought": "", "new": luck.random() < 0.8})
    if asked == "gibberish":
        return json.dumps({"thought": "", "gibberish": luck.random() < 0.1})
    score = 0 if _is_trial(text) else luck.choice([0, 0, 10, 10, 10])
    return json.dumps({"thought": "", "score": score})


def _is_trial(text: str) -> bool:
    """Whether the answer to be judged is one that is tried on drafts, and no member's."""
    asked, answer = (part.split("\n~~~~")[0] for part in text.split("~~~~\n")[1::4])
    return answer == asked or answer in _JUNK


def _left(run_dir: Path) -> dict[str, str]:
    """What a run decided: archives, pools, tasks and responses, by file."""
    files = [path for part in ("archive", "pool", "tasks") for path in (run_dir / part).rglob("*")]
    found = {str(p.relative_to(run_dir)): p.read_text() for p in files if p.is_file()}
    for path in (run_dir / "responses").iterdir():
        found[path.name] = gzip.decompress(path.read_bytes()).decode()
    return found


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@dataclasses.dataclass(frozen=True)
class Straight:
    """A run against a server without faults."""

    folder: Path
    script: Script


def _run(acdc_run: Run, folder: Path, script: Script, *more: str) -> int:
    with serving(script) as url:
        return acdc_run(
            folder,
            *_FLAGS,
            *("--scientist=openai", "--scientist_model=m", f"--scientist_url={url}"),
            *("--scientist_timeout_s=1", "--scientist_retries=2", *more),
        )


def _poisoned(poisoned: Counter[str]) -> Callable[[dict[str, Any]], bool]:
    """Whether a request fails: every 20th question to the judge, in four tries.

    With two retries, such a score is missing at first, and a draft that needs it waits.
    """
    numbers: dict[str, int] = {}

    def fails(body: dict[str, Any]) -> bool:
        text = body["messages"][-1]["content"] if "messages" in body else ""
        if purpose(body) != "judge":
            return False
        if numbers.setdefault(text, len(numbers)) % 20 != 19:
            return False
        poisoned[text] += 1
        return poisoned[text] < 5

    return fails


@pytest.fixture
def seeds(tokenizer_folder: Path, tmp_path: Path) -> tuple[str, ...]:
    """Flags for a base, and for seeds of another rotary base; most of what they write is short."""
    folders = [tmp_path / name for name in ("base", "seed-0", "seed-1")]
    for folder, key, theta in zip(folders, (0, 2, 4), (1e4, 1e6, 1e6), strict=True):
        config = dataclasses.replace(SMALL, tie_embeddings=False, rope_theta=theta)
        params = init_params(config, jax.random.key(key))
        head = params["head.weight"].at[TOKEN_IDS[EOS]].mul(8)
        hf_export.save(folder, config, params | {"head.weight": head}, tokenizer_folder)
    base, *seeds = map(str, folders)
    return f"--base_model={base}", f"--seed_models={','.join(seeds)}", "--adopt_base_config"


@pytest.fixture
def straight(
    acdc_run: Run, seeds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Straight:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    script = Script(_rule)
    assert _run(acdc_run, tmp_path / "straight", script, *seeds) == 0
    return Straight(tmp_path / "straight", script)


def test_a_run_with_a_scientist_behind_a_server_and_again_with_faults(
    straight: Straight,
    seeds: tuple[str, ...],
    acdc_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every duty was asked for, with the key, which is nowhere in the run.
    purposes = Counter(purpose(body) for body in straight.script.seen)
    assert set(purposes) == {"propose", "reflect", "solve", "novelty", "gibberish", "judge"}
    assert straight.script.keys == {"Bearer sk-0123456789"}
    for path in filter(Path.is_file, straight.folder.rglob("*")):
        assert b"sk-0123" not in path.read_bytes()

    # Three adaptations with every kind of draft, and a parent that came back from limbo.
    folders = sorted((straight.folder / "tasks").iterdir())
    tasks = {task.id: task for task in map(load_task, folders)}
    assert {task.generation for task in tasks.values()} == {0, 2, 4, 6}
    kinds = {task.draft.kind for task in tasks.values()}
    assert kinds == {"seed", "novel", "inspired", "harder", "easier", "related"}
    pools = [json.loads(p.read_text()) for p in sorted((straight.folder / "pool").iterdir())]
    back = [
        parent
        for before, after in itertools.pairwise(pools)
        for parent in before["limbo"].values()
        if parent in after["active"] and parent not in before["active"]
    ]
    assert back
    metrics = _metrics(straight.folder)
    assert sum(line["new_tasks"] for line in metrics) > 20
    assert sum(line["gibberish"] for line in metrics) > 0
    assert not any(line["missing_scores"] for line in metrics)
    assert all("llm_calls_per_task" in line for line in metrics[::2])
    for name in ("propose", "reflect", "solve", "novelty", "judge", "gibberish"):
        calls = sum(line.get(f"llm_{name}_calls", 0) for line in metrics)
        at_start = 6 if name == "judge" else 0  # three greedy and three sampled ones
        assert calls == purposes[name] - at_start
    archives = [json.loads(p.read_text()) for p in (straight.folder / "archive").iterdir()]
    reasons = [r["reason"] for archive in archives for r in archive["rejections"]]
    assert any("lacks score" in reason for reason in reasons)
    assert any("not interestingly new" in reason for reason in reasons)

    # The same archive although a tenth of the calls fail, in every way, and one in twenty of the
    # judge's fails again and again.
    monkeypatch.setattr("acdc_jax.tasks.validate._RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    poisoned = Counter[str]()
    faulty = Script(_rule, fault_rate=0.1, stall=1.5, down=_poisoned(poisoned))
    assert _run(acdc_run, tmp_path / "faulty", faulty, *seeds) == 0
    assert {_is_trial(text) for text in poisoned} == {True, False}
    assert set(poisoned.values()) == {5}
    assert sum(faulty.failed.values()) > 20
    assert len(faulty.failed) >= 8
    one, other = _left(straight.folder), _left(tmp_path / "faulty")
    assert [name for name in {*one, *other} if one.get(name) != other.get(name)] == []


def test_adapting_ahead_is_deterministic(acdc_run: Run, tmp_path: Path) -> None:
    more = ("--adapt_ahead", "--generations=2", "--initial_tasks=6", "--new_tasks=6")
    slow = Script(_rule, latency=0.03, fault_rate=0.1, stall=1.5)
    assert _run(acdc_run, tmp_path / "one", Script(_rule), *more) == 0
    assert _run(acdc_run, tmp_path / "other", slow, *more) == 0
    one, other = _left(tmp_path / "one"), _left(tmp_path / "other")
    assert [name for name in {*one, *other} if one.get(name) != other.get(name)] == []
    assert _metrics(tmp_path / "one")[2]["new_tasks"] > 0


def test_a_local_scientist_that_speaks_nonsense_leaves_the_pool_as_it_is(
    acdc_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the run says so, because it is not the run that the user asked for."""
    folder = write_chat_model(tmp_path / "chat", num_layers=1, num_heads=1, head_dim=8)
    status = acdc_run(
        tmp_path / "run",
        *_FLAGS,
        *("--scientist=local", f"--scientist_model={folder}", "--scientist_max_tokens=8"),
        *("--embeddings=local", f"--embedding_model={folder}", "--scientist_devices=1"),
        *("--generations=2", "--initial_tasks=2", "--new_tasks=2", "--reflections=1"),
        *("--children=3", "--nogibberish_filter", "--batch_size=8"),
    )
    assert status == 0
    lines = capsys.readouterr().err.splitlines()
    warnings = [line for line in lines if line.startswith("acdc: warning: ")]
    assert any("only 0 of 6 drafts for the first pool are valid" in line for line in lines)
    drafts = {"generation 2": 2, "the whole run": 8}
    for warning, (where, count) in zip(warnings, drafts.items(), strict=True):
        assert f"{where}: none of {count} drafts became a task (" in warning
        assert "no JSON object with" in warning
    pools = [json.loads(p.read_text()) for p in sorted((tmp_path / "run" / "pool").iterdir())]
    assert len(pools) == 3
    assert pools[0]["next_id"] == pools[-1]["next_id"] == 8  # the seed families
    archives = [json.loads(p.read_text()) for p in sorted((tmp_path / "run/archive").iterdir())]
    rejections = [rejection for archive in archives for rejection in archive["rejections"]]
    assert len(rejections) == 6 + 2  # three tries for each first task
    for rejection in rejections:
        assert "no JSON object" in rejection["reason"]
        assert rejection["source"]
    (first, _, last) = _metrics(tmp_path / "run")
    assert (first["llm_propose_calls"], last["llm_propose_calls"]) == (6, 2)
    assert first["llm_reflect_calls"] == 6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--scientist=openai", "--scientist_model is missing"),
        ("--scientist=nobody", "has no 'nobody'; registered: gym, procedural"),
        ("--adapt_ahead", "must be false for --scientist=procedural"),
        ("--scientist_devices=1", "must be none for --scientist=procedural"),
        ("--scientist_url=http://x/v1", "must be none for --scientist=procedural"),
        ("--embeddings=openai", "--embedding_model=none: is needed for --embeddings=openai"),
        ("--embedding_url=http://x/v1", "must be none for --embeddings=ngrams"),
        ("--held_out=nowhere", "nowhere: no task families there"),
        ("--seed_families=nowhere", "nowhere: no task families there"),
        ("--scientist=openai --scientist_model=m", "set OPENAI_API_KEY"),
        ("--scientist=local --scientist_model=nowhere", "nowhere"),
        ("--scientist=local --scientist_model=m --scientist_devices=9", "is left for the members"),
    ],
)
def test_flags_that_cannot_work_are_refused_at_once(
    wrong: str,
    said: str,
    acdc_run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert acdc_run(tmp_path / "run", *wrong.split()) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
