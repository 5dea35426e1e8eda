"""Inputs and results of sandbox calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Status: TypeAlias = Literal[
    "score", "task error", "submission error", "timeout", "memory", "infrastructure"
]


class SandboxError(Exception):
    """The sandbox itself failed; nothing is known about the task."""


class IsolationError(SandboxError):
    """This machine cannot isolate untrusted code."""


@dataclass(frozen=True)
class Limits:
    """What one item (one call of `score`, or one inspection of a family) may use.

    Attributes:
        wall_s: Wall-clock seconds that an item may take without using the CPU.
        cpu_s: CPU seconds.
        min_share: Share of one core that an item must use to continue after `wall_s`. A process
            that can run gets more on the busiest machine; one that waits does not.
        memory_mb: MiB of address space beyond the interpreter's own.
        file_mb: MiB of any one file.
        scratch_mb: MiB of all files. They are in memory, in a folder of the child, and need
            namespaces; without namespaces a task cannot write files.
        processes: Threads; new processes are never allowed.
        output_kb: KiB of instances and instructions that a family may return, and of each message
            between a scorer, its submission and the judge.
        judgements: Calls of `eval_with_llm_judge`. The clock stops during these calls.
        calls: Calls of the submission's functions. Together they have another `cpu_s`.
    """

    wall_s: float = 3.0
    cpu_s: float = 2.0
    min_share: float = 0.05
    memory_mb: int = 256
    file_mb: int = 1
    scratch_mb: int = 4
    processes: int = 16
    output_kb: int = 256
    judgements: int = 4
    calls: int = 1000


@dataclass(frozen=True)
class Outcome:
    """The outcome of scoring one submission.

    Attributes:
        status: "score": `score` is a number in [0, 1]. "task error", "timeout" and "memory" are
            the task's fault. "submission error": the submission's own code failed, and the scorer
            did not handle that. "infrastructure": the sandbox or the judge failed; this says
            nothing about the submission and must not count as a failure of the model.
        score: The number, or None for every other status.
        detail: The reason in one line; empty for a score.
    """

    status: Status
    score: float | None
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """The result of calling one function of a submission.

    Attributes:
        status: "value": the function returned. "infrastructure" says nothing about the function.
        value: What the function returned, as JSON; None for every other status.
        detail: The reason in one line; empty for a value.
    """

    status: Literal["value", "submission error", "timeout", "memory", "infrastructure"]
    value: JSON
    detail: str = ""


@dataclass(frozen=True)
class FamilyReport:
    """What a task family returns about itself.

    Attributes:
        tasks: Instance name → what `get_tasks` returned for it.
        instructions: Instance name → text of `get_instructions`.
        error: Why the family's methods failed (both mappings are then empty), or None.
    """

    tasks: Mapping[str, JSON]
    instructions: Mapping[str, str]
    error: str | None = None
