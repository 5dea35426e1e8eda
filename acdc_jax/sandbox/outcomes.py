"""What goes into the sandbox besides code, and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from acdc_jax.errors import AcdcError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Status: TypeAlias = Literal[
    "score", "task error", "submission error", "timeout", "memory", "infrastructure"
]


class SandboxError(AcdcError):
    """The sandbox itself failed: nothing is known about the task."""


@dataclass(frozen=True)
class Limits:
    """What one item (one call of `score`, or one inspection of a family) may use.

    Attributes:
        wall_s: seconds on the clock.
        cpu_s: whole seconds of CPU.
        memory_mb: MiB of address space beyond the interpreter's own.
        file_mb: MiB of any one file.
        scratch_mb: MiB of all files. They live in memory, in a folder of the item's child, and only
            where there are namespaces; elsewhere a task writes no file.
        processes: threads; new processes are never allowed.
        output_kb: KiB of instances and instructions that a family may return, and of what passes
            between a scorer, its submission and the judge.
        judgements: calls of `eval_with_llm_judge`. The clock stands still while one is waited for.
        calls: calls of the submission's functions. They have, together, another `wall_s`.
    """

    wall_s: float = 3.0
    cpu_s: int = 2
    memory_mb: int = 256
    file_mb: int = 1
    scratch_mb: int = 4
    processes: int = 16
    output_kb: int = 256
    judgements: int = 4
    calls: int = 1000


@dataclass(frozen=True)
class Outcome:
    """What became of one submission.

    Attributes:
        status: "score" means that `score` holds a number in [0, 1]; "task error", "timeout" and
            "memory" are the task's fault; "submission error" means that the submission's own code
            failed and the scorer let that through; "infrastructure" is ours and says nothing about
            the submission, so it must never be counted as a failure of the model.
        score: the number, or None for every other status.
        detail: one line about what happened; empty for a score.
    """

    status: Status
    score: float | None
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """What became of one call of a submission's function.

    Attributes:
        status: "value" means that the function returned; "infrastructure" says nothing about it.
        value: what it returned, as JSON; None for every other status.
        detail: one line about what happened; empty for a value.
    """

    status: Literal["value", "submission error", "timeout", "memory", "infrastructure"]
    value: JSON
    detail: str = ""


@dataclass(frozen=True)
class FamilyReport:
    """What a task family says about itself.

    Attributes:
        tasks: instance name to what `get_tasks` returned for it.
        instructions: instance name to the text of `get_instructions`.
        error: why the family's own methods failed (both mappings are then empty), or None.
    """

    tasks: Mapping[str, JSON]
    instructions: Mapping[str, str]
    error: str | None = None
