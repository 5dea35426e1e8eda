"""The part of `acdc evaluate` that gives a single answer: best of N, by several methods."""

import asyncio
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console

from acdc_jax.commands.export import read_model
from acdc_jax.config import LLM_SCIENTISTS, Config, SamplingConfig, ScientistConfig
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.best_of_n.answers import (
    QuestionId,
    Sampler,
    complete_answers,
    missing_answers,
    question_ids,
    read_answers,
)
from acdc_jax.evaluation.best_of_n.choices import (
    AnsweredQuestion,
    ChoiceCache,
    accuracies,
    accuracy_row,
    choose_all,
    random_accuracies,
)
from acdc_jax.evaluation.best_of_n.methods import (
    JUDGED,
    METHODS,
    REWARDED,
    Answer,
    Helpers,
    Rewards,
    Undecided,
    self_certainty,
)
from acdc_jax.evaluation.best_of_n.reward_model import (
    check_reward_model,
    load_reward_model,
    rewards,
)
from acdc_jax.evaluation.evaluate import Response
from acdc_jax.evaluation.held_out import held_out_tasks
from acdc_jax.files import write_atomic
from acdc_jax.models.hub import find_model
from acdc_jax.options import check, option
from acdc_jax.report.tables import best_of_n_table
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.backends import open_chat
from acdc_jax.runtime.member_files import on_disk
from acdc_jax.runtime.progress import Advance, progress
from acdc_jax.runtime.reopen import reopen_context
from acdc_jax.runtime.run_reader import RunRecord
from acdc_jax.tasks.task import Task
from acdc_jax.tasks.task_sets import load_held_out

_SETS = {"run": "the run's tasks", "held_out": "held-out tasks"}


@dataclasses.dataclass(frozen=True)
class BestOfNConfig:
    """Best of N: a single answer from many"""

    best_of_n: str = option(
        "",
        "Methods, comma separated: log_prob (mean over tokens), self_certainty (arXiv 2502.18581), "
        "plurality (most frequent answer), llm_judge (an LLM names the best of N), llm_knockout "
        "(an LLM compares pairs, in both orders), llm_score (an LLM grades each), reward (a reward "
        "model), oracle (Coverage, the bound).",
    )
    questions: Literal["run", "held_out", "both"] = option(
        "both",
        "Which questions: the run's tasks (the task force was chosen on them), held-out tasks, or "
        "both, if the run has held-out tasks.",
    )
    samples_of: str = option(
        "", "Choose among N samples of this member (an id), not among a task force's answers."
    )
    judge: Literal["openai", "local"] | None = option(
        None,
        "The LLM of the llm_ methods: openai (any OpenAI-compatible server; the key comes from "
        "OPENAI_API_KEY) or local (a checkpoint on this engine); default: the run's scientist.",
    )
    judge_model: str = option("", "The server's name of the judge, or its Hugging Face folder.")
    judge_url: str = option("", "Base URL of the judge's server; default OpenAI's own.")
    reward_model: str = option(
        "",
        "Folder or Hub id of a reward model: a …ForSequenceClassification with one label, of a "
        "family that members may have.",
    )

    def __post_init__(self) -> None:
        check(self)
        for name in self.methods():
            if name not in METHODS:
                raise ConfigError(f"--best_of_n: {name!r} is none of {', '.join(METHODS)}")
        if self.best_of_n and not self.methods():
            raise ConfigError("--best_of_n: names no method")
        used = set(self.methods())
        if bool(self.judge) != bool(self.judge_model):
            raise ConfigError("--judge and --judge_model belong together: give both or neither")
        if self.judge and not used & JUDGED:
            raise ConfigError(f"--judge={self.judge} is of {', '.join(sorted(JUDGED))}; drop it")
        if self.judge_url and self.judge != "openai":
            raise ConfigError("--judge_url needs --judge=openai")
        if self.judge == "openai" and not (self.judge_url or os.environ.get("OPENAI_API_KEY")):
            raise ConfigError(
                "--judge=openai: set OPENAI_API_KEY, or --judge_url for a server without a key"
            )
        if bool(self.reward_model) != bool(used & REWARDED):
            raise ConfigError("--best_of_n=reward and --reward_model belong together")
        if self.samples_of and not self.best_of_n:
            raise ConfigError("--samples_of is of --best_of_n; drop it")

    def methods(self) -> list[str]:
        """Their names, each once, in the order given."""
        parts = (part.strip() for part in self.best_of_n.split(","))
        return list(dict.fromkeys(part for part in parts if part))

    def judge_settings(self, config: Config) -> Config:
        """The run's settings, with the judge in the scientist's place."""
        if not self.judge:
            return config
        given = config.scientist
        judge = ScientistConfig(
            scientist=self.judge,
            scientist_model=self.judge_model,
            scientist_url=self.judge_url,
            scientist_concurrency=given.scientist_concurrency,
            scientist_timeout_s=given.scientist_timeout_s,
            scientist_retries=given.scientist_retries,
            scientist_max_tokens=given.scientist_max_tokens,
        )
        return dataclasses.replace(config, scientist=judge)


@dataclasses.dataclass(frozen=True)
class _Panel:
    """N samplers whose answers are chosen from."""

    name: str
    samplers: Sequence[Sampler]


def check_best_of_n(run_dir: Path, config: BestOfNConfig, samples: SamplingConfig) -> None:
    """Refuses what cannot work, before anything is computed.

    Raises:
        AcdcError: nobody is there to judge, the reward model is none, or the member is not there.
    """
    if samples != SamplingConfig() and not config.samples_of:
        raise ConfigError("--temperature, --top_k, --top_p and --min_p are of --samples_of")
    if not config.best_of_n:
        return
    manifest = run_reader.read_manifest(run_dir)
    settings = Config.from_settings(manifest.flags)
    if config.questions == "held_out" and not settings.tasks.held_out:
        raise ConfigError(f"--questions=held_out: {run_dir} has no held-out tasks")
    judged = [name for name in config.methods() if name in JUDGED]
    if judged and config.judge_settings(settings).scientist.scientist not in LLM_SCIENTISTS:
        raise ConfigError(
            f"--best_of_n={judged[0]} needs an LLM, and the run's scientist is none: give --judge "
            "and --judge_model"
        )
    if config.reward_model:
        check_reward_model(find_model(config.reward_model, weights=True))
    if config.samples_of and not on_disk(run_dir / "members" / config.samples_of):
        known = ", ".join(manifest.retained[-8:])
        raise AcdcError(
            f"--samples_of={config.samples_of}: is not among the members on disk (the latest: "
            f"{known})"
        )


def run_best_of_n(
    run: RunRecord,
    forces: Mapping[int, Sequence[str]],
    config: BestOfNConfig,
    samples: SamplingConfig,
    prng_seed: int,
    console: Console,
) -> None:
    """Collects answers, chooses among them by every method, and writes `best_of_n.json`.

    Args:
        run: which run.
        forces: size → task force.
        config: what to do.
        samples: how the samples of --samples_of are drawn.
        prng_seed: of samples and bootstrap intervals.
        console: where progress and the table go.
    """
    run_dir, settings = run.run_dir, run.settings
    sets = {
        name: tasks
        for name in _SETS
        if config.questions in (name, "both") and (tasks := _tasks(name, run, settings))
    }
    per_task = settings.tasks.instances_per_task
    asked = {name: question_ids(tasks, per_task) for name, tasks in sets.items()}
    texts = {
        (task.id, instance): text
        for tasks in sets.values()
        for task in tasks
        for instance, text in task.instructions.items()
    }
    panels = _panels(forces, config, samples, prng_seed)
    samplers = list(dict.fromkeys(sampler for panel in panels for sampler in panel.samplers))
    tasks = [task for tasks in sets.values() for task in tasks]
    _answer(run_dir, settings, samplers, tasks, console)
    vocabulary = read_model(run_dir).vocab_size
    threshold = settings.tasks.skill_threshold
    said = {sampler: read_answers(run_dir, sampler) for sampler in samplers}
    by_panel = {
        (panel.name, name): {
            question: AnsweredQuestion(
                texts[question],
                [
                    _candidate(said[sampler][question], vocabulary, threshold)
                    for sampler in panel.samplers
                ],
            )
            for question in questions
        }
        for panel in panels
        for name, questions in asked.items()
    }
    with progress(console, settings.run.progress) as advance:
        found = asyncio.run(_choose(run_dir, settings, config, by_panel, prng_seed, advance))
    written = _write(run, panels, asked, found)
    console.print(best_of_n_table([written[panel.name] for panel in panels], _SETS))
    for problem in dict.fromkeys(line["problem"] for lines in found.values() for line in lines):
        if problem:
            console.print(
                f"missing: {problem}; the same command asks again",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _tasks(name: str, run: RunRecord, settings: Config) -> list[Task]:
    """Return every task that was ever active, or the held-out ones, if there are any."""
    if name == "run":
        return list(run.tasks.values())
    with settings.sandbox.open() as sandbox:
        drafts = load_held_out(settings.tasks.held_out, settings.run.seed)
        return held_out_tasks(drafts, sandbox, settings.tasks.skill_threshold)


def _panels(
    forces: Mapping[int, Sequence[str]],
    config: BestOfNConfig,
    samples: SamplingConfig,
    prng_seed: int,
) -> list[_Panel]:
    member, drawn = config.samples_of, samples.to_sampling()
    if member:
        samplers = [Sampler(member, drawn, i, prng_seed) for i in range(max(forces))]
        return [_Panel(f"{n} samples of {member}", samplers[:n]) for n in forces]
    return [
        _Panel(f"task force of {n}", [Sampler(member) for member in force])
        for n, force in forces.items()
    ]


def _answer(
    run_dir: Path,
    settings: Config,
    samplers: Sequence[Sampler],
    tasks: Sequence[Task],
    console: Console,
) -> None:
    """Lets samplers answer what they have not; without a model where there is nothing."""
    per_task = settings.tasks.instances_per_task
    owed = missing_answers(run_dir, samplers, question_ids(tasks, per_task))
    if not owed:
        return
    with run_directory.lock_run(settings), reopen_context(settings, console) as context:
        spent = complete_answers(
            context.evaluator,
            context.store.get,
            run_dir,
            tasks,
            owed,
            lambda done: context.progress("answers", done, len(owed)),
        )
    console.print(
        f"answers: decode {spent.decode_s:.1f} s + scoring {spent.scoring_s:.1f} s, "
        f"{spent.tokens / max(spent.decode_s, 1e-3):,.0f} tok/s",
        markup=False,
        highlight=False,
    )


def _candidate(response: Response, vocabulary: int, threshold: float) -> Answer:
    assert response.log_prob is not None
    assert response.mean_log_prob is not None
    return Answer(
        response.text,
        response.log_prob,
        self_certainty(response.mean_log_prob, vocabulary),
        None if response.score is None else response.score >= threshold,
    )


async def _choose(
    run_dir: Path,
    settings: Config,
    config: BestOfNConfig,
    by_panel: Mapping[Any, Mapping[QuestionId, AnsweredQuestion]],
    prng_seed: int,
    advance: Advance,
) -> dict[Any, list[dict[str, Any]]]:
    """Rows of the table, by panel and set of questions."""
    judging, methods = config.judge_settings(settings), config.methods()
    chat = open_chat(judging, jax.devices()) if JUDGED & set(methods) else None
    helpers = Helpers(chat, _rewards(config.reward_model) if config.reward_model else None)
    asked = judging.scientist
    identities: dict[str, str] = dict.fromkeys(
        JUDGED, f"{asked.scientist_url} {asked.scientist_model}"
    )
    identities |= dict.fromkeys(REWARDED, config.reward_model)
    cache = ChoiceCache(run_dir / "best_of_n" / "choices.jsonl")
    found: dict[Any, list[dict[str, Any]]] = {}
    try:
        for panel, questions in by_panel.items():
            found[panel] = [
                accuracy_row("any one", random_accuracies(questions), prng_seed) | {"problem": None}
            ]
            for method in methods:
                step, identity = (
                    f"{method}, {panel[0]}, {_SETS[panel[1]]}",
                    identities.get(method),
                )

                def told(done: int, step: str = step, total: int = len(questions)) -> None:
                    advance(step, done, total)

                chosen, problem = await choose_all(
                    method, questions, helpers, identity, cache, told if identity else _nobody
                )
                line = accuracy_row(method, accuracies(questions, chosen), prng_seed)
                found[panel].append(line | {"problem": problem})
    finally:
        if chat is not None:
            await chat.close()
    return found


def _nobody(done: int) -> None:
    """Methods that ask no model are done at once."""


def _rewards(name: str) -> Rewards:
    """A reward model; its answers to one question are read as one batch."""
    model = load_reward_model(find_model(name), jax.devices())

    def values(question: str, answers: Sequence[str]) -> Sequence[float]:
        texts = [model.encode(question, answer) for answer in answers]
        try:
            return rewards(model, texts)
        except AcdcError as error:
            raise Undecided(str(error)) from None

    return values


def _write(
    run: RunRecord,
    panels: Sequence[_Panel],
    asked: Mapping[str, Sequence[QuestionId]],
    found: Mapping[Any, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Adds the panels to `best_of_n.json`; others that are there stay."""
    path = run.run_dir / "best_of_n.json"
    try:
        written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        written = {}
    except ValueError as error:
        raise AcdcError(f"{path}: is damaged ({error}); remove it") from None
    for panel in panels:
        written[panel.name] = {
            "panel": panel.name,
            "generation": run.manifest.generation,
            "answers": [sampler.name for sampler in panel.samplers],
            **{
                name: {"questions": len(questions), "methods": found[panel.name, name]}
                for name, questions in asked.items()
            },
        }
    write_atomic(path, json.dumps(written, indent=1))
    return written
