"""Best of N on a run: collect answers, choose among them, and write `best_of_n.json`."""

import asyncio
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from rich.console import Console

from acdc_jax.config import Config
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
    Questions,
    accuracies,
    accuracy_row,
    choose_all,
    random_accuracies,
)
from acdc_jax.evaluation.best_of_n.methods import (
    JUDGED,
    REWARDED,
    Answer,
    Helpers,
    Rewards,
    Undecided,
    self_certainty,
)
from acdc_jax.evaluation.best_of_n.options import BestOfNOptions
from acdc_jax.evaluation.best_of_n.reward_model import (
    check_reward_model,
    load_reward_model,
    rewards,
)
from acdc_jax.evaluation.held_out import held_out_tasks, measured_tasks
from acdc_jax.evaluation.responses import Response
from acdc_jax.files import write_atomic
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models.find_model import find_model
from acdc_jax.models.thoughts import cut_thoughts
from acdc_jax.runtime import run_reader
from acdc_jax.runtime.backends import open_chat
from acdc_jax.runtime.member_files import on_disk
from acdc_jax.runtime.progress import Progress, show_progress
from acdc_jax.runtime.run_reader import RunRecord
from acdc_jax.runtime.setup import open_run
from acdc_jax.runtime.sources import read_sources
from acdc_jax.tasks.chosen_families import check_chosen
from acdc_jax.tasks.llm import ChatModel
from acdc_jax.tasks.options import LLM_SCIENTISTS, ScientistOptions
from acdc_jax.tasks.task import Task
from acdc_jax.tasks.task_sets import load_held_out

Rows = list[dict[str, Any]]  # of one panel, one row per method

SetName = TypeVar("SetName", bound=str | None)
"""Of a held-out set or a benchmark; None is the run's own tasks."""


@dataclasses.dataclass(frozen=True)
class _Panel:
    """N samplers whose answers are chosen from."""

    name: str
    samplers: Sequence[Sampler]


def check_best_of_n(run_dir: Path, options: BestOfNOptions, samples: Sampling) -> None:
    """Refuse options that cannot work with a run, before anything is computed.

    Raises:
        AcdcError: There is no judge, the reward model is not one, or the member is missing.
    """
    if samples != Config().sampling and not options.samples_of:
        raise ConfigError("--temperature, --top_k, --top_p and --min_p only apply to --samples_of")
    if not options.methods:
        return
    manifest = run_reader.read_manifest(run_dir)
    config = Config.from_settings(manifest.flags)
    if options.questions == "held_out" and not config.tasks.held_out:
        raise ConfigError(f"--questions=held_out: {run_dir} has no held-out tasks")
    judged = [name for name in options.methods if name in JUDGED]
    if judged and judge_options(options, config.scientist).kind not in LLM_SCIENTISTS:
        raise ConfigError(
            f"--best_of_n={judged[0]} needs an LLM, which the run's scientist is not; give --judge "
            "and --judge_model"
        )
    if options.judge == "openai" and not (options.judge_url or os.environ.get("OPENAI_API_KEY")):
        raise ConfigError(
            "--judge=openai: set OPENAI_API_KEY, or --judge_url for a server without a key"
        )
    if options.reward_model:
        check_reward_model(find_model(options.reward_model, weights=True))
    if options.samples_of and not on_disk(run_dir / "members" / options.samples_of):
        latest = ", ".join(manifest.retained[-8:])
        raise AcdcError(
            f"--samples_of={options.samples_of}: this member is not on disk (the latest that are: "
            f"{latest})"
        )


def run_best_of_n(
    run: RunRecord,
    forces: Mapping[int, Sequence[str]],
    options: BestOfNOptions,
    samples: Sampling,
    prng_seed: int,
    console: Console,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Collect answers, choose among them by every method, and write `best_of_n.json`.

    Args:
        run: The run.
        forces: Size → task force.
        options: Methods, questions and helper models.
        samples: How the samples of `options.samples_of` are drawn.
        prng_seed: Seed of samples and bootstrap intervals.
        console: Where progress appears.

    Returns:
        The entries of `best_of_n.json` that were written, one per panel; and the reasons why
        choices are missing.
    """
    per_task = run.settings.tasks.instances_per_task
    task_sets = _task_sets(run, options)
    panels = _panels(run, forces, options, samples, prng_seed)
    samplers = list(dict.fromkeys(sampler for panel in panels for sampler in panel.samplers))
    _complete_answers(run, samplers, measured_tasks(task_sets), console)
    answers = _read_answers(run, samplers)
    questions: dict[tuple[str, str | None], Questions] = {
        (panel.name, task_set): _questions(panel, tasks, per_task, answers)
        for panel in panels
        for task_set, tasks in task_sets.items()
    }
    with show_progress(console, run.settings.run.progress) as advance:
        table, problems = asyncio.run(choose(run, options, questions.items(), prng_seed, advance))
    return _write(run, panels, questions, table), problems


def judge_options(options: BestOfNOptions, scientist: ScientistOptions) -> ScientistOptions:
    """Return the options of the judge, which is the run's scientist by default."""
    if not options.judge:
        return scientist
    return ScientistOptions(
        kind=options.judge,
        model=options.judge_model,
        url=options.judge_url,
        concurrency=scientist.concurrency,
        timeout_s=scientist.timeout_s,
        retries=scientist.retries,
        max_tokens=scientist.max_tokens,
    )


def _task_sets(run: RunRecord, options: BestOfNOptions) -> dict[str | None, list[Task]]:
    """Return the tasks of each set of questions; None is the run's own."""
    sets: dict[str | None, list[Task]] = {}
    if options.questions in ("run", "both"):
        sets[None] = list(run.pool_tasks.values())
    config = run.settings
    held_out = load_held_out(config.tasks.held_out, config.run.seed, config.tasks)
    if options.questions in ("held_out", "both") and held_out:
        families = [("held-out task", draft) for of_set in held_out.values() for draft in of_set]
        with config.sandbox.open() as sandbox:
            checked = check_chosen(families, sandbox, config.tasks.skill_threshold)
        sets |= held_out_tasks(held_out, checked)
    return sets


def _panels(
    run: RunRecord,
    forces: Mapping[int, Sequence[str]],
    options: BestOfNOptions,
    samples: Sampling,
    prng_seed: int,
) -> list[_Panel]:
    if member := options.samples_of:
        own = member in read_sources(run.run_dir).own  # a seed is asked as a baseline here
        samplers = [Sampler(member, samples, i, prng_seed, own) for i in range(max(forces))]
        return [_Panel(f"{n} samples of {member}", samplers[:n]) for n in forces]
    return [
        _Panel(f"task force of {n}", [Sampler(member) for member in force])
        for n, force in forces.items()
    ]


# ------------------------------------------------------------------------------------- answers


def _complete_answers(
    run: RunRecord, samplers: Sequence[Sampler], tasks: Sequence[Task], console: Console
) -> None:
    """Collect the answers that are not on file. Load no model if there are none."""
    config = run.settings
    questions = question_ids(tasks, config.tasks.instances_per_task)
    missing = missing_answers(run.run_dir, samplers, questions)
    if not missing:
        return
    with open_run(config, console) as context:
        own = {sampler.member for sampler in missing if sampler.own}  # at most one
        cost = complete_answers(
            context.own_evaluator(own.pop()) if own else context.evaluator,
            context.store.get,
            run.run_dir,
            tasks,
            missing,
            lambda done: context.progress("answers", done, len(missing)),
        )
    console.print(
        f"answers: decode {cost.decode_s:.1f} s + scoring {cost.scoring_s:.1f} s, "
        f"{cost.tokens / max(cost.decode_s, 1e-3):,.0f} tok/s",
        markup=False,
        highlight=False,
    )


def _read_answers(
    run: RunRecord, samplers: Sequence[Sampler]
) -> dict[Sampler, dict[QuestionId, Answer]]:
    vocabulary = run_reader.read_model(run.run_dir).vocab_size
    threshold = run.settings.tasks.skill_threshold

    def answer(response: Response) -> Answer:
        assert response.log_prob is not None
        assert response.mean_log_prob is not None
        return Answer(
            cut_thoughts(response.text),
            response.log_prob,
            self_certainty(response.mean_log_prob, vocabulary),
            None if response.score is None else response.score >= threshold,
            response.truncated,
        )

    return {
        sampler: {
            question: answer(response)
            for question, response in read_answers(run.run_dir, sampler).items()
        }
        for sampler in samplers
    }


def _questions(
    panel: _Panel,
    tasks: Sequence[Task],
    per_task: int,
    answers: Mapping[Sampler, Mapping[QuestionId, Answer]],
) -> Questions:
    by_id = {task.id: task for task in tasks}
    return {
        (task, instance): AnsweredQuestion(
            by_id[task].instructions[instance],
            [answers[sampler][task, instance] for sampler in panel.samplers],
        )
        for task, instance in question_ids(tasks, per_task)
    }


# ------------------------------------------------------------------------------------- choices


async def choose(
    run: RunRecord,
    options: BestOfNOptions,
    questions: Iterable[tuple[tuple[str, SetName], Questions]],
    prng_seed: int,
    advance: Progress,
    bootstrap: int = 10_000,
) -> tuple[dict[tuple[str, SetName], Rows], list[str]]:
    """Choose among answers by every method.

    Args:
        run: The run, whose scientist judges by default.
        options: Methods and helper models.
        questions: (panel, task set or benchmark), and its questions with the panel's answers.
        prng_seed: Seed of bootstrap intervals.
        advance: Shows progress.
        bootstrap: Number of resamples.

    Returns:
        Rows of accuracies by panel and task set, and the reasons why choices are missing.
    """
    judge_model = judge_options(options, run.settings.scientist)
    chat: ChatModel | None = None
    if JUDGED & set(options.methods):
        chat = open_chat(judge_model, jax.devices(), run.settings.decode.batch_size)
    helpers = Helpers(chat, _rewards(options.reward_model) if options.reward_model else None)
    judge = f"{judge_model.url or ''} {judge_model.model}"
    models: dict[str, str | None] = dict.fromkeys(JUDGED, judge)
    models |= dict.fromkeys(REWARDED, options.reward_model)
    cache = ChoiceCache(run.run_dir / "best_of_n" / "choices.jsonl")
    table: dict[tuple[str, SetName], Rows] = {}
    problems: list[str] = []
    try:
        for (panel, task_set), of_panel in questions:
            rows = [accuracy_row("any one", random_accuracies(of_panel), prng_seed, bootstrap)]
            for method in options.methods:
                title = task_set or "the run's tasks"
                step = partial(advance, f"{method}, {panel}, {title}")

                def tell(done: int, step: Any = step, total: int = len(of_panel)) -> None:
                    step(done, total)

                model = models.get(method)
                choices, problem = await choose_all(
                    method, of_panel, helpers, model, cache, tell if model else lambda done: None
                )
                values = accuracies(of_panel, choices)
                rows.append(accuracy_row(method, values, prng_seed, bootstrap))
                problems += [problem] if problem else []
            table[panel, task_set] = rows
    finally:
        if chat is not None:
            await chat.close()
    return table, list(dict.fromkeys(problems))


def _rewards(name: str) -> Rewards:
    """Load a reward model; the answers to one question are read as one batch."""
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
    questions: Mapping[tuple[str, str | None], Questions],
    table: Mapping[tuple[str, str | None], Rows],
) -> list[dict[str, Any]]:
    """Add the panels to `best_of_n.json`, and return their entries; other panels stay."""
    path = run.run_dir / "best_of_n.json"
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        entries = {}
    except ValueError as error:
        raise AcdcError(f"{path}: is damaged ({error}); remove it") from None
    for panel in panels:
        entries[panel.name] = {
            "panel": panel.name,
            "generation": run.manifest.generation,
            "answers": [sampler.name for sampler in panel.samplers],
            "sets": [
                {"name": task_set, "questions": len(questions[name, task_set]), "methods": rows}
                for (name, task_set), rows in table.items()
                if name == panel.name
            ],
        }
    write_atomic(path, json.dumps(entries, indent=1))
    return [entries[panel.name] for panel in panels]
