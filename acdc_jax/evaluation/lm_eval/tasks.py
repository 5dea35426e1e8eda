"""Load the harness's tasks by name, and run them on a model."""

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.evaluation.lm_eval.code_eval import check_unsafe, redirected

# Task or group → the metric and filter that count, from the paper's configuration files.
PAPER_SCORES: Mapping[str, tuple[str, str]] = {
    "gsm8k_llama": ("exact_match", "flexible_extract"),
    "minerva_math": ("math_verify", "none"),
    "mmlu_cot_llama": ("exact_match", "strict_match"),
    "mmlu_pro_llama": ("exact_match", "strict_match"),
    "bbh_cot_zeroshot": ("exact_match", "flexible-extract"),
    "gpqa_main_cot_zeroshot": ("exact_match", "flexible-extract"),
    "humaneval_instruct": ("pass@1", "create_test"),
    "mbpp_instruct": ("pass_at_1", "extract_code"),
}
# The harness's default seeds, so that its few-shot examples are the usual ones.
_RANDOM_SEED, _OTHER_SEED = 0, 1234


@dataclass(frozen=True)
class Prompting:
    """How questions are asked.

    Attributes:
        chat: Whether to use the chat template.
        system: System message; empty for none. Needs the chat template.
        num_fewshot: Examples before each question; None for the task's own number.
        limit: Number of questions of each task, the first ones; None for all.
        options: Generation arguments that replace the tasks' own.
    """

    chat: bool = True
    system: str = ""
    num_fewshot: int | None = None
    limit: int | None = None
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A task or a group of tasks.

    Attributes:
        name: Its name, or the name in its YAML file.
        loaded: Argument of `lm_eval.evaluator.evaluate`.
    """

    name: str
    loaded: Mapping[str, Any]

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Name → `lm_eval.api.task.Task`."""
        tasks: Mapping[str, Any] = self.loaded["tasks"]
        return tasks


def load_benchmarks(
    names: Sequence[str], include: Sequence[Path], prompting: Prompting
) -> list[Benchmark]:
    """Load tasks with their data; those in `include` come before the harness's own.

    `CODE_EVAL` must be open, because code benchmarks call it when they are loaded.

    Args:
        names: Names of tasks, groups or tags, or paths of YAML files.
        include: Folders with further tasks.
        prompting: How questions are asked.

    Raises:
        AcdcError: A task is unknown, its data are not available, or it would execute code outside
            the sandbox.
    """
    from lm_eval.tasks import TaskManager

    paths = [str(path) for path in include]
    with _quiet():
        # The harness has thousands of files, which take a while to read; local tasks need none.
        manager = TaskManager(include_path=paths, include_defaults=False)
        if not all(name in manager.all_tasks or Path(name).is_file() for name in names):
            manager = TaskManager(include_path=paths)
        benchmarks = []
        for name in names:
            if name not in manager.all_tasks and not Path(name).is_file():
                raise AcdcError(
                    f"neither lm-evaluation-harness nor an included folder has a task {name!r}; "
                    "`lm_eval ls tasks` lists the harness's tasks"
                )
            loaded = _loaded(manager, name)
            if name not in manager.all_tasks:  # a file, which has the name of the task
                name = next(iter(loaded["groups"] or loaded["tasks"]))
            benchmarks.append(Benchmark(name, loaded))
            for task_name, task in benchmarks[-1].tasks.items():
                check_unsafe(task_name, task)
                _override(task, prompting)
    return benchmarks


def _loaded(manager: Any, name: str) -> Mapping[str, Any]:
    try:
        with redirected():
            loaded: Mapping[str, Any] = manager.load([name])
        return loaded
    except AcdcError:
        raise
    except ImportError as error:
        raise AcdcError(
            f"{name}: the task needs a missing package ({one_line(error)}); install it"
        ) from error
    except Exception as error:  # from the data sets library, the Hub, the network, or the task
        raise AcdcError(
            f"{name}: the task cannot be loaded ({one_line(error)}); its data come from the "
            "Hugging Face Hub or its cache, so run this once with network, or copy a filled "
            "HF_HOME here"
        ) from error


def _override(task: Any, prompting: Prompting) -> None:
    """Change a task's settings as `lm_eval.simple_evaluate` does."""
    if task.get_config("output_type") == "generate_until" and prompting.options:
        task.set_config(key="generation_kwargs", value=dict(prompting.options), update=True)
    default = task.get_config("num_fewshot")
    if default is None or (prompting.num_fewshot is not None and default != 0):
        task.set_config(key="num_fewshot", value=prompting.num_fewshot or 0)


def run_benchmark(lm: Any, benchmark: Benchmark, prompting: Prompting) -> Mapping[str, Any]:
    """Let the harness evaluate a model on a benchmark.

    Args:
        lm: An `lm_eval.api.model.LM`.
        benchmark: From `load_benchmarks`.
        prompting: As for `load_benchmarks`.

    Returns:
        The harness's output, with `results` and `samples` by task.
    """
    from lm_eval.evaluator import evaluate

    for task in benchmark.tasks.values():
        task.set_fewshot_seed(seed=_OTHER_SEED)  # every model gets the same examples
    random.seed(_RANDOM_SEED)
    np.random.seed(_OTHER_SEED)  # noqa: NPY002  # the harness draws from it
    with _quiet():
        output: Mapping[str, Any] = evaluate(
            lm,
            dict(benchmark.loaded),
            limit=prompting.limit,
            bootstrap_iters=0,
            system_instruction=prompting.system or None if prompting.chat else None,
            apply_chat_template=prompting.chat,
            fewshot_as_multiturn=prompting.chat,
            confirm_run_unsafe_code=True,  # safe: `check_unsafe` has refused such tasks
        )
    return output


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness's progress bars and warnings; failures are exceptions."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as devnull:  # noqa: PTH123
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(devnull):
                yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
