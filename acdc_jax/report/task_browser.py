"""Show a run's tasks in the terminal: a filtered table, or one task in full."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.skills import MISSING, SOLVED, SkillMatrix, pass_rates
from acdc_jax.options import check, option
from acdc_jax.runtime.run_reader import RunRecord, read_archive, read_responses
from acdc_jax.tasks.gym import describe
from acdc_jax.tasks.task import Kind, Task

_LONGEST_RESPONSE = 600  # characters
_VERDICTS = {SOLVED: "solved", MISSING: "missing"}

State = Literal["active", "limbo", "parent", "gone"]


@dataclasses.dataclass(frozen=True)
class TaskFilter:
    """Which tasks are listed"""

    state: Literal["active", "limbo", "parent", "gone", "all"] = option(
        "active",
        "active, limbo (replaced by a child, but may return), parent (seed families that are only "
        "parents), gone, or all.",
    )
    kind: Kind | None = option(None, "How the task came about. none: any way.")
    capability: str | None = option(
        None, "Text that its capability or description contains. none: any."
    )
    family: str | None = option(
        None, "Family of reasoning-gym that its questions are from, such as gcd. none: any."
    )
    min_level: int = option(
        0,
        "Lowest level: how many steps it is above the lowest levels of its family. Above 0, tasks "
        "without levels are left out.",
        low=0,
    )
    max_level: int | None = option(
        None, "Highest level. With one, tasks without levels are left out.", low=0
    )
    min_difficulty: int = option(1, "Lowest difficulty, by the author's estimate.", low=1, high=5)
    max_difficulty: int = option(5, "Highest difficulty, by the author's estimate.", low=1, high=5)
    min_pass_rate: float = option(
        0.0,
        "Lowest share of the archive that solves it. Above 0, tasks without a rating are left out.",
        low=0,
        high=1,
    )
    max_pass_rate: float = option(
        1.0,
        "Highest share of the archive that solves it. Below 1, tasks without a rating are left "
        "out.",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        check(self)


class TaskBrowser:
    """The tasks of a run, as the last archive answered them.

    Raises:
        AcdcError: A file of the run is missing or damaged.
    """

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._skills: SkillMatrix = read_archive(run.run_dir, run.manifest.generation)
        self._rates = pass_rates(self._skills)
        pool = run.pools[-1]
        self._waiting = frozenset(pool.limbo.values())
        self._active = frozenset(pool.active)
        self._answered = frozenset(run.pool_tasks)

    def select(self, options: TaskFilter) -> list[Task]:
        """Return the tasks that a filter admits, the hardest first and unrated ones last."""
        rated_only = options.min_pass_rate > 0 or options.max_pass_rate < 1
        leveled_only = options.min_level > 0 or options.max_level is not None
        highest_level = math.inf if options.max_level is None else options.max_level

        def admits(task: Task) -> bool:
            rate, draft = self._rates.get(task.id), task.draft
            level = describe.steps(draft)
            text = f"{draft.capability}\n{draft.description}".lower()
            return (
                options.state in ("all", self._state(task.id))
                and options.kind in (None, draft.kind)
                and (options.capability or "").lower() in text
                and (options.family is None or options.family in describe.families(draft))
                and (
                    not leveled_only
                    if level is None
                    else options.min_level <= level <= highest_level
                )
                and options.min_difficulty <= draft.difficulty <= options.max_difficulty
                and (
                    not rated_only
                    if rate is None
                    else options.min_pass_rate <= rate <= options.max_pass_rate
                )
            )

        tasks = filter(admits, self._run.tasks.values())
        return sorted(tasks, key=lambda task: (self._rates.get(task.id, 2.0), task.id))

    def table(self, tasks: Sequence[Task]) -> Table:
        """Return a table with one line per task."""
        run_dir = escape(str(self._run.run_dir))
        table = Table(
            title=f"{len(tasks)} of {len(self._run.tasks)} tasks of {run_dir}", title_justify="left"
        )
        for name in ("task", "kind", "parent", "born", "state", "difficulty", "solved by"):
            table.add_column(name, no_wrap=True)
        leveled = any(describe.families(task.draft) for task in tasks)
        if leveled:
            table.add_column("family and levels", ratio=2)
        table.add_column("capability", ratio=2)
        table.add_column("description", ratio=3)
        for task in tasks:
            draft, rate = task.draft, self._rates.get(task.id)
            table.add_row(
                task.id,
                draft.kind,
                draft.parent or "",
                str(task.generation),
                self._state(task.id),
                str(draft.difficulty),
                "" if rate is None else f"{rate:.0%}",
                *([escape(describe.levels(draft))] if leveled else []),
                escape(draft.capability),
                escape(draft.description),
            )
        return table

    def show(self, name: str, console: Console) -> None:
        """Print one task in full, with its lineage, its code, and the archive's answers.

        Raises:
            AcdcError: The run has no such task, or a file is missing or damaged.
        """
        if name not in self._run.tasks:
            run_dir = self._run.run_dir
            raise AcdcError(f"{run_dir}: no task {name!r}; `acdc tasks {run_dir}` lists them")
        task = self._run.tasks[name]
        for title, content in (
            (name, _text(self._description(task))),
            ("lineage", _text(self._lineage(task))),
            ("task.py", Syntax(task.draft.source, "python")),
            ("answers", _text(self._answers(name))),
        ):
            console.print(Panel(content, title=title, title_align="left"))

    def _state(self, name: str) -> State:
        if name in self._active:
            return "active"
        if name in self._waiting:
            return "limbo"
        return "gone" if name in self._answered else "parent"

    def _description(self, task: Task) -> Iterator[str]:
        draft, rate = task.draft, self._rates.get(task.id)
        rating = "not rated" if rate is None else f"solved by {rate:.0%} of the archive"
        reference = draft.reference or {}
        yield f"{draft.name}: {draft.description}"
        yield (
            f"capability {draft.capability}; difficulty {draft.difficulty} of 5; {draft.kind}, "
            f"generation {task.generation}; {self._state(task.id)}; {rating}"
        )
        if levels := describe.levels(draft):
            yield f"questions of reasoning-gym, with the levels above the lowest: {levels}"
        for key, text in task.instructions.items():
            yield f"instance {key}: {text}"
            if key in reference:
                yield f"  reference: {reference[key]}"

    def _lineage(self, task: Task) -> Iterator[str]:
        """Yield the task's ancestors, the oldest first, the task itself, and its children."""
        tasks, line = self._run.tasks, [task]
        while (older := tasks.get(line[0].draft.parent or "")) is not None and older not in line:
            line.insert(0, older)
        children = [other for other in tasks.values() if other.draft.parent == task.id]
        for depth, each in [*enumerate(line), *((len(line), child) for child in children)]:
            waits = (
                " ← waits in case no member solves its child" if each.id in self._waiting else ""
            )
            parent = tasks.get(each.draft.parent or "")
            change = describe.change(parent.draft, each.draft) if parent else ""
            yield (
                f"{'  ' * depth}{each.id} {each.draft.kind} (generation {each.generation}, "
                f"{self._state(each.id)}) {each.draft.name}"
                f"{f': {change}' if change else ''}{waits}"
            )

    def _answers(self, name: str) -> Iterator[str]:
        """Yield the latest answers of each member of the archive, solvers first."""
        if name not in self._skills.tasks:
            yield "none: the task is not active, and so the archive has no answers"
            return
        column = self._skills.values[:, self._skills.tasks.index(name)]
        verdicts = {
            member: _VERDICTS.get(int(value), "failed")
            for member, value in zip(self._skills.members, column, strict=True)
        }
        latest: dict[tuple[str, str], Any] = {}
        for entry in read_responses(self._run, self._skills.members):
            if entry["task"] == name:
                latest[entry["member"], entry["instance"]] = entry
        for member in sorted(verdicts, key=lambda member: (verdicts[member] != "solved", member)):
            yield f"{member}: {verdicts[member]}"
            for (author, instance), entry in latest.items():
                if author == member:
                    text = entry["text"][:_LONGEST_RESPONSE]
                    yield f"  {instance} (score {entry['score']}): {text}"


def _text(lines: Iterable[str]) -> str:
    return escape("\n".join(lines))
