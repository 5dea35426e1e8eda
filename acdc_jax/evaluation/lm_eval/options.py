"""Options of benchmarks. Importing this file does not import lm-evaluation-harness."""

import dataclasses
from typing import Literal, get_args

from acdc_jax import options
from acdc_jax.options import OptionError, option

CollectiveName = Literal["task_force", "seeds", "samples", "resampled", "random"]
COLLECTIVES: tuple[CollectiveName, ...] = get_args(CollectiveName)


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """Benchmarks of lm-evaluation-harness, on members of a run."""

    tasks: tuple[str, ...] = option(
        (),
        "Tasks, groups or YAML files of lm-evaluation-harness (the extra `harness`). `held_out` is "
        "the run's own held-out tasks. Several runs make one table.",
        path=True,
    )
    include_path: tuple[str, ...] = option((), "Folders with further tasks (YAML).", path=True)
    limit: int | None = option(
        None, "Number of questions per task, from the first on. Default: all.", low=1
    )
    num_fewshot: int | None = option(
        None,
        "Examples before each question, unless a task requires none. Default: the task's.",
        low=0,
    )
    apply_chat_template: bool = option(True, "Ask questions with the members' chat template.")
    system_instruction: str = option("", "System message; needs the chat template.")
    gen_kwargs: str = option(
        "",
        "Generation arguments that replace the tasks' own, such as "
        "max_gen_toks=1024,temperature=0.6,do_sample=True.",
    )
    think_end_token: str | None = option(
        None,
        "Text behind which a model's answer begins, such as </think>. Default: the marks of common "
        "reasoning models.",
    )
    score: tuple[str, ...] = option(
        (),
        "What counts as solved, as TASK:METRIC:FILTER. Default: the paper's choice, or else the "
        "first score and filter of the task.",
    )
    members: tuple[str, ...] = option(
        (),
        "Ids of members that are measured as one collective, instead of the collectives. A seed "
        "among them has the base's configuration; --larger_model=FOLDER has its own.",
    )
    collectives: tuple[CollectiveName, ...] = option(
        COLLECTIVES,
        "What is compared: the task forces; as many seeds; samples (temperature 0.7) of the best "
        "seed and of --larger_model; samples spread over the seeds (resampled); and members of the "
        "archive drawn at random.",
    )
    random_draws: int = option(
        32, "Number of random collectives of each size; their mean is reported.", low=1
    )
    by_generation: bool = option(
        False, "Also measure the smallest task force of each kept generation."
    )
    larger_model: str | None = option(
        None, "Folder or Hub id of a larger model to compare with.", path=True
    )
    bootstrap: int = option(1000, "Bootstrap resamples of the items for intervals.", low=10)

    def __post_init__(self) -> None:
        options.check(self)
        for entry in self.score:
            if entry.count(":") != 2 or not all(entry.split(":")):
                raise OptionError(self, "score", "must be TASK:METRIC:FILTER, comma-separated")

    def scores(self) -> dict[str, tuple[str, str]]:
        """Return benchmark → (metric, filter)."""
        entries = (entry.split(":") for entry in self.score)
        return {task: (metric, name) for task, metric, name in entries}

    @property
    def has_models(self) -> bool:
        """Whether there is a model to measure."""
        return bool(self.members or self.collectives or self.larger_model or self.by_generation)
