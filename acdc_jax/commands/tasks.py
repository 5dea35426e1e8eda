"""`acdc tasks RUN [TASK]`: browse a run's tasks in the terminal."""

import dataclasses
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from acdc_jax import flags
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolution.skills import MISSING, SOLVED, SkillMatrix, pass_rates
from acdc_jax.options import check, option
from acdc_jax.runtime import run_reader
from acdc_jax.tasks.task import Task, load_task

_HELP = """acdc tasks RUN: list a run's tasks, easiest last; acdc tasks RUN TASK: show one of them,
with its lineage, its code, and what the members of the archive answered.

"""
Kind = Literal["seed", "novel", "inspired", "harder", "easier", "related"]
_SHOWN_RESPONSE = 600  # characters


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which tasks are listed"""

    state: Literal["active", "limbo", "gone", "all"] = option(
        "active", "active, limbo (parents that wait for their child's first rating), gone, or all."
    )
    kind: Kind | None = option(None, "How the task came about; none: any way.")
    capability: str = option("", "A word that its capability or description contains.")
    min_difficulty: int = option(1, "The author's estimate at least.", low=1, high=5)
    max_difficulty: int = option(5, "The author's estimate at most.", low=1, high=5)
    min_pass_rate: float = option(
        0.0,
        "Share of the archive that solves it at least; above 0, unrated ones are left out.",
        low=0,
        high=1,
    )
    max_pass_rate: float = option(
        1.0,
        "Share of the archive that solves it at most; below 1, unrated ones are left out.",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True)
class Browsed:
    """What the directory of a run says about its tasks.

    Attributes:
        tasks: every task there ever was.
        states: task id → active, limbo or gone.
        skills: archive × active tasks.
        limbo: child id → id of the parent that waits.
        run_dir: the run.
    """

    tasks: Mapping[str, Task]
    states: Mapping[str, str]
    skills: SkillMatrix
    limbo: Mapping[str, str]
    run_dir: Path


def command(argv: Sequence[str]) -> None:
    """Runs `acdc tasks`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text((Filter,)))
        return
    (wanted,), rest = flags.parse((Filter,), argv)
    if len(rest) not in (1, 2):
        raise ConfigError("usage: acdc tasks RUN [TASK] [--kind=… --capability=… …]")
    run, console = read_tasks(Path(rest[0])), Console()
    if len(rest) == 1:
        console.print(task_table(run, chosen(run, wanted)))
    else:
        show_task(run, rest[1], console)


def read_tasks(run_dir: Path) -> Browsed:
    """Reads what a run has committed about its tasks.

    Raises:
        AcdcError: it is no run, or a file of it is missing or damaged.
    """
    manifest = run_reader.read_manifest(run_dir)
    if manifest.generation < 0:
        raise AcdcError(f"{run_dir}: nothing is committed yet; wait for generation 0")
    folders = sorted((run_dir / "tasks").glob("t*"))[: manifest.task_counter]
    tasks = {task.id: task for task in map(load_task, folders)}
    path = run_dir / "pool" / f"g{manifest.generation:03d}.json"
    try:
        pool = json.loads(path.read_text(encoding="utf-8"))
        limbo, active = dict(pool["limbo"]), set(pool["active"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None
    waiting = set(limbo.values())
    states = {
        name: "active" if name in active else "limbo" if name in waiting else "gone"
        for name in tasks
    }
    skills = run_reader.read_archive(run_dir, manifest.generation)
    return Browsed(tasks, states, skills, limbo, run_dir)


def chosen(run: Browsed, wanted: Filter) -> list[Task]:
    """The tasks that a filter lets through: hardest first, unrated ones at the end."""
    rates = pass_rates(run.skills)
    rated_only = wanted.min_pass_rate > 0 or wanted.max_pass_rate < 1

    def passes(task: Task) -> bool:
        rate, draft = rates.get(task.id), task.draft
        text = f"{draft.capability}\n{draft.description}".lower()
        return (
            wanted.state in ("all", run.states[task.id])
            and wanted.kind in (None, draft.kind)
            and wanted.capability.lower() in text
            and wanted.min_difficulty <= draft.difficulty <= wanted.max_difficulty
            and (
                not rated_only
                if rate is None
                else wanted.min_pass_rate <= rate <= wanted.max_pass_rate
            )
        )

    found = filter(passes, run.tasks.values())
    return sorted(found, key=lambda task: (rates.get(task.id, 2.0), task.id))


def task_table(run: Browsed, tasks: Sequence[Task]) -> Table:
    """One line per task."""
    rates = pass_rates(run.skills)
    table = Table(
        title=f"{len(tasks)} of {len(run.tasks)} tasks of {escape(str(run.run_dir))}",
        title_justify="left",
    )
    for name in ("task", "kind", "parent", "born", "state", "level", "solved by"):
        table.add_column(name, no_wrap=True)
    table.add_column("capability", ratio=2)
    table.add_column("description", ratio=3)
    for task in tasks:
        draft, rate = task.draft, rates.get(task.id)
        table.add_row(
            task.id,
            draft.kind,
            draft.parent or "",
            str(task.generation),
            run.states[task.id],
            str(draft.difficulty),
            "" if rate is None else f"{rate:.0%}",
            escape(draft.capability),
            escape(draft.description),
        )
    return table


def show_task(run: Browsed, name: str, console: Console) -> None:
    """One task in full.

    Raises:
        AcdcError: the run has no such task.
    """
    if name not in run.tasks:
        raise AcdcError(
            f"{run.run_dir} has no task {name!r}; `acdc tasks {run.run_dir}` lists them"
        )
    task = run.tasks[name]
    draft, rate = task.draft, pass_rates(run.skills).get(name)
    solved = "not rated" if rate is None else f"solved by {rate:.0%} of the archive"
    reference = draft.reference or {}
    lines = [
        f"{draft.name}: {draft.description}",
        f"capability {draft.capability}; difficulty {draft.difficulty} of 5; {draft.kind}, "
        f"generation {task.generation}; {run.states[name]}; {solved}",
        *(
            f"instance {key}: {text}"
            + (f"\n  reference: {reference[key]}" if key in reference else "")
            for key, text in task.instructions.items()
        ),
    ]
    console.print(Panel(escape("\n".join(lines)), title=name, title_align="left"))
    console.print(
        Panel(escape("\n".join(_lineage(run, task))), title="lineage", title_align="left")
    )
    console.print(Panel(Syntax(draft.source, "python"), title="task.py", title_align="left"))
    console.print(
        Panel(escape("\n".join(_replies(run, name))), title="answers", title_align="left")
    )


def _lineage(run: Browsed, task: Task) -> list[str]:
    """Its ancestors, the oldest first, itself, and its children."""
    line = [task]
    while (parent := line[0].draft.parent) is not None and parent in run.tasks:
        line.insert(0, run.tasks[parent])
    children = [other for other in run.tasks.values() if other.draft.parent == task.id]
    rows = [*enumerate(line), *((len(line), child) for child in children)]
    waiting = set(run.limbo.values())
    return [
        f"{'  ' * depth}{t.id} {t.draft.kind} (generation {t.generation}, {run.states[t.id]}) "
        f"{t.draft.name}" + (" ← waits for its child's rating" if t.id in waiting else "")
        for depth, t in rows
    ]


def _replies(run: Browsed, name: str) -> Iterable[str]:
    """What each member of the archive answered last, solvers first."""
    if name not in run.skills.tasks:
        return ["the archive has not been asked: the task is not active"]
    column = run.skills.values[:, run.skills.tasks.index(name)]
    word = {SOLVED: "solved", MISSING: "missing"}
    verdicts = {
        member: word.get(int(value), "failed")
        for member, value in zip(run.skills.members, column, strict=True)
    }
    said: dict[tuple[str, str], Mapping[str, Any]] = {}
    for path in sorted((run.run_dir / "responses").glob("g*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            # Tens of thousands of lines: only those that mention the task are parsed.
            if f'"{name}"' in line and (record := json.loads(line))["task"] == name:
                said[record["member"], record["instance"]] = record
    lines = []
    for member in sorted(verdicts, key=lambda m: (verdicts[m] != "solved", m)):
        lines.append(f"{member}: {verdicts[member]}")
        lines += [
            f"  {instance} (score {record['score']}): {record['text'][:_SHOWN_RESPONSE]}"
            for (who, instance), record in said.items()
            if who == member
        ]
    return lines
