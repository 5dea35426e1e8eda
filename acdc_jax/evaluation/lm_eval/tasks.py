"""The harness's tasks: found and loaded by name, before any model is."""

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

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.lm_eval.code_eval import check_unsafe, redirected

# Tasks have several metrics and filters. The one that counts, by task or group: the paper's (its
# own configuration files).
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
# The harness's own default seeds, so that its few-shot examples are the usual ones.
_RANDOM_SEED, _OTHER_SEED = 0, 1234


@dataclass(frozen=True)
class Asking:
    """How tasks are put to a model.

    Attributes:
        chat: by the chat template.
        system: system message; empty for none. With the template only.
        num_fewshot: examples before each question; None: as each task says.
        limit: only the first so many questions of each task; None: all.
        options: generation arguments that replace the tasks' own.
    """

    chat: bool = True
    system: str = ""
    num_fewshot: int | None = None
    limit: int | None = None
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A task or a group of tasks, as it was asked for.

    Attributes:
        name: what it was asked for by, or what its YAML file calls it.
        loaded: what `lm_eval.evaluator.evaluate` takes.
    """

    name: str
    loaded: Mapping[str, Any]

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Name → `lm_eval.api.task.Task`."""
        tasks: Mapping[str, Any] = self.loaded["tasks"]
        return tasks


def load_benchmarks(
    names: Sequence[str], include: Sequence[Path], asking: Asking
) -> list[Benchmark]:
    """Loads tasks with their data; those in `include` go before the harness's own.

    Must be called while `CODE_EVAL` is open: code benchmarks try it.

    Args:
        names: of tasks, groups or tags, or paths of YAML files.
        include: folders with tasks.
        asking: how they will be put.

    Raises:
        ConfigError: one is unknown, or would execute code outside the sandbox.
        AcdcError: one's data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    paths = [str(path) for path in include]
    with _quiet():
        # Reading the harness's own thousands of files takes a while; local tasks do not need them.
        manager = TaskManager(include_path=paths, include_defaults=False)
        if not all(name in manager.all_tasks or Path(name).is_file() for name in names):
            manager = TaskManager(include_path=paths)
        benchmarks = []
        for name in names:
            if name not in manager.all_tasks and not Path(name).is_file():
                raise ConfigError(
                    f"--harness_tasks: lm-evaluation-harness has no task {name!r}, nor has "
                    "--harness_include_path; `lm_eval ls tasks` lists its own"
                )
            loaded = _loaded(manager, name)
            if name not in manager.all_tasks:  # a file, which says what it is called
                name = next(iter(loaded["groups"] or loaded["tasks"]))
            benchmarks.append(Benchmark(name, loaded))
            for task_name, task in benchmarks[-1].tasks.items():
                check_unsafe(task_name, task)
                _override(task, asking)
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
            f"{name}: the task needs a package that is missing ({_line(error)}); install that"
        ) from error
    except Exception as error:  # of the data sets library, the Hub, the network and the task's own
        raise AcdcError(
            f"{name}: the task cannot be loaded ({_line(error)}); its data come from the Hugging "
            "Face Hub or its cache: run this once with network, or copy a filled HF_HOME here"
        ) from error


def _override(task: Any, asking: Asking) -> None:
    """What `lm_eval.simple_evaluate` does with the same settings."""
    if task.get_config("output_type") == "generate_until" and asking.options:
        task.set_config(key="generation_kwargs", value=dict(asking.options), update=True)
    default = task.get_config("num_fewshot")
    if default is None or (asking.num_fewshot is not None and default != 0):
        task.set_config(key="num_fewshot", value=asking.num_fewshot or 0)


def ask(lm: Any, benchmark: Benchmark, asking: Asking) -> Mapping[str, Any]:
    """Lets the harness put a benchmark to a model.

    Args:
        lm: an `lm_eval.api.model.LM`.
        benchmark: from `load_benchmarks`.
        asking: as there.

    Returns:
        The harness's results: `results` by task, and `samples` by task.
    """
    from lm_eval.evaluator import evaluate

    for task in benchmark.tasks.values():
        task.set_fewshot_seed(seed=_OTHER_SEED)  # every model gets the same examples
    random.seed(_RANDOM_SEED)
    np.random.seed(_OTHER_SEED)  # noqa: NPY002  # the harness draws from it
    with _quiet():
        found: Mapping[str, Any] = evaluate(
            lm,
            dict(benchmark.loaded),
            limit=asking.limit,
            bootstrap_iters=0,
            system_instruction=asking.system or None if asking.chat else None,
            apply_chat_template=asking.chat,
            fewshot_as_multiturn=asking.chat,
            confirm_run_unsafe_code=True,  # none is run here: `check_unsafe`
        )
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's bars and warnings; what matters is an exception."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:  # noqa: PTH123
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(nowhere):
                yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or repr(error)
