"""Compute the data of the page's figures, which its scripts only draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acdc_jax.config import RECORDED_FLAGS, free_flags
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.dns import fitness as fitness_of
from acdc_jax.evolution.skills import MISSING, SOLVED
from acdc_jax.report import lineage, taskmap
from acdc_jax.runtime.run_reader import Json, RunRecord, read_responses
from acdc_jax.tasks.gym import describe

_RESPONSE_BUDGET = 3_000_000  # characters of all responses on the page, to fit into a mail
_LONGEST_RESPONSE = 2_000
_SYMBOLS = {1: "1", 0: "0", MISSING: "-"}


def pass_rates(run: RunRecord) -> dict[str, float]:
    """Return task id → share of the final archive that solves it, if each member has a score."""
    rows = skill_matrix.take(run.skills, run.manifest.archive, run.skills.tasks)
    return skill_matrix.pass_rates(rows)


def generations(run: RunRecord, kernel: np.ndarray) -> Json:
    """Return figures over generations, and for each set the Coverage that the run has to beat.

    Args:
        run: The run.
        kernel: [tasks, tasks]; from `taskmap.likeness`, of all its tasks in order.
    """
    vendi: list[float] = []
    position = {name: i for i, name in enumerate(run.tasks)}
    active_tasks = [pool.active for pool in run.pools]
    for g, active in enumerate(active_tasks):
        same = g > 0 and active == active_tasks[g - 1]
        rows = [position[name] for name in active]
        vendi.append(vendi[-1] if same else taskmap.vendi_score(kernel[np.ix_(rows, rows)]))
    return {
        "metrics": run.metrics,
        "novelty": [_novelty(entry, run.manifest.flags) for entry in run.archives],
        "vendi": vendi,
        "sets": [_growth(table) for table in (run.results or {"sets": []})["sets"]],
    }


def _growth(table: Json) -> Json:
    """Return Coverage over generations on one set, and the levels that it has to beat."""
    return {
        "measured": [[int(g), value] for g, value in table["coverage_by_generation"].items()],
        "levels": [
            [f"{name} ({row['n']})", row["coverage"]]
            for row in table["rows"]
            for name in [_LEVELS.get((row["collective"], min(row["n"], 4)))]
            if name
        ],
    }


_LEVELS = {
    ("seeds", 3): "best seeds",
    ("samples_best_seed", 3): "samples of the best seed",
    ("all_seeds", 4): "all seeds together",
}


def _novelty(archive: Json, flags: Mapping[str, Any]) -> list[float] | None:
    """Return the median and maximum novelty of an archive, without the undominated member."""
    top = flags.get("dominated_score")
    values = [member["novelty"] for member in archive["members"]]
    values = [value for value in values if value is not None and value != top]
    return [float(np.median(values)), float(max(values))] if values else None


def heat_map(run: RunRecord) -> Json:
    """Return the skill matrix with its rows grouped by role, the best first in each group."""
    fitness = dict(zip(run.skills.members, fitness_of(run.skills.values).tolist(), strict=True))
    grouped: set[str] = set()
    groups = []
    for name, ids in (
        ("task force", run.task_force),
        ("archive", run.manifest.archive),
        ("seeds", run.seeds),
        ("earlier members", run.skills.members),
    ):
        members = [i for i in dict.fromkeys(ids) if i in fitness and i not in grouped]
        if name != "task force":
            members.sort(key=lambda i: -fitness[i])
        grouped |= set(members)
        if members:
            groups.append({"name": name, "members": members})
    order = [member for group in groups for member in group["members"]]
    rows = skill_matrix.take(run.skills, order, run.skills.tasks)
    return {
        "groups": groups,
        "tasks": rows.tasks,
        "rows": ["".join(_SYMBOLS[int(v)] for v in row) for row in rows.values],
        "fitness": [fitness[member] for member in order],
    }


def family_tree(run: RunRecord) -> Json:
    """Return the ancestors of the archive and those of the task force, each with a layout."""
    force, archive = run.task_force[:3], list(run.manifest.archive)
    views = {"task force of 3": force, "archive": archive} if force else {"archive": archive}
    fitness = dict(zip(run.skills.members, fitness_of(run.skills.values).tolist(), strict=True))
    trees = {}
    for name, members in views.items():
        places = lineage.lay_out(lineage.ancestors(members, run.recipes), run.recipes)
        trees[name] = [[member, row, lane] for member, (row, lane) in places.items()]
    visible_ids = {node[0] for tree in trees.values() for node in tree}
    return {
        "trees": trees,
        "members": {
            name: {
                "generation": recipe.generation,
                "parents": recipe.parents,
                "coefficients": [[round(w, 3) for w in row] for row in recipe.coefficients],
                "groups": recipe.groups,
                "mutation": recipe.to_json()["mutation"],
                "fitness": fitness.get(name),
                "role": "seed"
                if recipe.operator == "seed"
                else "force"
                if name in force
                else "archive"
                if name in archive
                else "ancestor",
            }
            for name, recipe in run.recipes.items()
            if name in visible_ids
        },
    }


def tasks(run: RunRecord, kernel: np.ndarray) -> list[Json]:
    """Return all tasks, with their places on the map and the responses to them.

    Args:
        run: The run.
        kernel: As in `generations`.
    """
    rates, active = pass_rates(run), set(run.pools[-1].active)
    positions = dict(zip(run.tasks, taskmap.place(kernel).round(4).tolist(), strict=True))
    answers = _answers(run)
    return [
        {
            "id": name,
            "name": task.draft.name,
            "description": task.draft.description,
            "capability": task.draft.capability,
            "difficulty": task.draft.difficulty,
            "kind": task.draft.kind,
            "parent": task.draft.parent,
            "families": describe.families(task.draft),
            "level": describe.steps(task.draft),
            "levels": describe.levels(task.draft),
            "change": (
                describe.change(parent.draft, task.draft)
                if (parent := run.tasks.get(task.draft.parent or ""))
                else ""
            ),
            "generation": task.generation,
            "active": name in active,
            "rate": rates.get(name),
            "at": positions[name],
            "instructions": task.instructions,
            "source": task.draft.source,
            "answers": answers.get(name, []),
        }
        for name, task in run.tasks.items()
    ]


def _answers(run: RunRecord) -> dict[str, list[list[Any]]]:
    """Return task id → [instance, text, score, members], with equal responses merged.

    These are responses of the task force, the archive and the seeds. They are cut if all of them
    would make the page too large.
    """
    members = list(dict.fromkeys([*run.task_force, *run.manifest.archive, *run.seeds]))
    by_task: dict[str, dict[tuple[str, str, float | None], list[str]]] = {}
    for entry in read_responses(run, members):
        same = by_task.setdefault(entry["task"], {})
        same.setdefault((entry["instance"], entry["text"], entry["score"]), []).append(
            entry["member"]
        )
    longest = min(_LONGEST_RESPONSE, _RESPONSE_BUDGET // max(1, sum(map(len, by_task.values()))))
    order = {member: i for i, member in enumerate(members)}
    return {
        task: [
            [
                instance,
                _clip(text, longest),
                score,
                sorted(dict.fromkeys(who), key=order.__getitem__),
            ]
            for (instance, text, score), who in same.items()
        ]
        for task, same in by_task.items()
    }


def _clip(text: str, longest: int) -> str:
    """Return both ends of a text, since a response declares its answer at the end."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} […] {text[-half:]}"


def profile(run: RunRecord) -> Json | None:
    """Return the share of each capability that each member of the task force solves, and all do."""
    members = run.task_force
    if not members:
        return None
    values = skill_matrix.take(run.skills, members, run.skills.tasks).values
    by_capability: dict[str, list[int]] = {}
    for t, name in enumerate(run.skills.tasks):
        by_capability.setdefault(run.tasks[name].draft.capability, []).append(t)
    order = sorted(by_capability, key=lambda name: (-len(by_capability[name]), name))
    rows = []
    for name in order:
        part = values[:, by_capability[name]]
        together = float((part == SOLVED).any(0).mean())
        rows.append([name, part.shape[1], fitness_of(part).tolist(), together])
    return {"members": members, "rows": rows}


def timing(run: RunRecord) -> Json:
    """Return the seconds of the run's parts, and of the parts of its generations."""
    wall = (run.results or {}).get("wall_s", {})
    steps = sorted({key for entry in run.metrics for key in entry if key.startswith("seconds_")})
    return {
        "wall": {name: value for name, value in wall.items() if name != "total"},
        "steps": {
            step.removeprefix("seconds_").replace("_", " "): [
                entry.get(step, 0.0) for entry in run.metrics
            ]
            for step in steps
        },
    }


def differing_flags(runs: Sequence[RunRecord]) -> list[str]:
    """Return the names of the flags that make experiments differ.

    Places, machines and PRNG seeds do not.
    """
    settings = [run.settings.settings() for run in runs]
    names = sorted(settings[0].keys() - _NO_SETTING)
    return [name for name in names if len({str(values[name]) for values in settings}) > 1]


# A flag that may change on a run does not change the experiment, but for these two.
_NO_SETTING = free_flags() - {"generations", "held_out", *RECORDED_FLAGS} | {"seed"}
