"""A small run directory in the documented format, with texts that attack a page."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.tasks.task import Draft, Task, save_task

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
KINDS = ("seed", "novel", "harder", "easier")


def _task(number: int) -> Task:
    draft = Draft(
        name=f"family {number} {ATTACK}" if number == 1 else f"family {number}",
        description=f"Say {number} {ATTACK}",
        capability=("counting", "spelling", "logic")[number % 3],
        difficulty=1 + number % 5,
        example_instruction="say it",
        source=f"# {ATTACK}\nclass TaskFamily: ...\n",
        kind=KINDS[number % 4],  # type: ignore[arg-type]
        parent="t00000" if number % 4 > 1 else None,
        metadata={"parts": [{"family": "gcd", "levels": {"value": number // 4}}]}
        if number in (0, 2, 10)
        else {},
    )
    return Task(f"t{number:05d}", draft, number // 8, {"0": {}}, {"0": f"say {number}: {ATTACK}"})


def _recipe(name: str, *parents: str) -> dict[str, Any]:
    return {
        "id": name,
        "operator": "merge" if parents else "seed",
        "parents": parents,
        "coefficients": [[0.5, -0.25 * i] for i in range(len(parents))],
        "groups": ["attention", "mlp"] if parents else [],
        "merge": {"method": "linear"} if parents else None,
        "mutation": None,
        "key": [0, 0],
        "generation": int(name[1:4]),
        "content": "",
        "device": "cpu",
    }


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a run: `write_run(folder, measured=True, **flags)`."""

    def write(folder: Path, measured: bool = True, **flags: Any) -> Path:
        folder.mkdir(parents=True)
        tasks = [_task(number) for number in range(24)]
        for task in tasks:
            save_task(task, folder / "tasks" / task.id)
        made = {
            0: [
                _recipe("g000-m00"),
                _recipe("g000-m01"),
                _recipe("g000-m02", "g000-m00", "g000-m01"),
            ],
            1: [_recipe("g001-m00", "g000-m02", "g000-m01"), _recipe("g001-m01", "g000-m00")],
            2: [_recipe("g002-m00", "g001-m00", "g000-m00")],
        }
        archives = {
            0: ["g000-m00", "g000-m01", "g000-m02"],
            1: ["g001-m00", "g000-m01", "g001-m01"],
            2: ["g002-m00", "g001-m00", "g000-m01"],
        }
        rng = np.random.default_rng(0)
        solved = {r["id"]: rng.integers(0, 2, 24) for rs in made.values() for r in rs}
        for part in ("archive", "pool", "responses"):
            (folder / part).mkdir()
        lines = []
        for g, members in archives.items():
            active = [task.id for task in tasks[: 8 * (g + 1)]]
            archive = {
                "generation": g,
                "tasks": active,
                "members": [
                    {
                        "id": member,
                        "novelty": 999.0 if i == 0 else 5.0 * i,
                        "skills": "".join(map(str, solved[member][: len(active)])),
                    }
                    for i, member in enumerate(members)
                ],
                "children": made[g],
                "gibberish": [],
                "rejections": [],
            }
            (folder / "archive" / f"g{g:03d}.json").write_text(json.dumps(archive))
            (folder / "pool" / f"g{g:03d}.json").write_text(
                json.dumps({"active": active, "limbo": {}, "next_id": 0})
            )
            responses = [
                {
                    "member": recipe["id"],
                    "task": task,
                    "instance": "0",
                    "text": f"Answer {ATTACK}",
                    "score": float(solved[recipe["id"]][t]),
                }
                for recipe in made[g]
                for t, task in enumerate(active)
            ]
            data = "\n".join(map(json.dumps, responses)).encode()
            (folder / "responses" / f"g{g:03d}.jsonl.gz").write_bytes(gzip.compress(data))
            names = ("coverage_archive", "coverage_3", "fitness_best", "fitness_mean")
            figures = dict.fromkeys(names, (g + 1) / 4)
            lines.append({"generation": g, **figures, "new_tasks": 8 * (g > 0), "seconds": 1.5})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        manifest = {
            "schema": run_reader.SCHEMA,
            "generation": 2,
            "key": [0, 0],
            "flags": {
                "seed": 0,
                "generations": 2,
                "dominated_score": 999.0,
                "system_prompt": ATTACK,
                **flags,
            },
            "task_counter": 24,
            "archive": archives[2],
            "kept": {"2": archives[2]},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        if measured:
            figures = {"coverage_majority": 0.4, "best_single": 0.3}
            results = {
                "sets": [
                    {
                        "name": "tiny",
                        "tasks": 10,
                        "missing_tasks": 0,
                        "rows": [
                            {"collective": "evolved", "n": 3, "coverage": 0.5, **figures},
                            {"collective": "seeds", "n": 3, "coverage": 0.25, **figures},
                        ],
                        "coverage_by_generation": {"0": 0.25, "2": 0.5},
                    }
                ],
                "task_force": {"3": archives[2]},
                "generations": 2,
                "device": "cpu",
                "wall_s": {"seeds": 1.0, "evolution": 4.5, "evaluation": 2.0, "total": 7.5},
            }
            (folder / "results.json").write_text(json.dumps(results))
            values = np.asarray([solved[member] for member in solved], np.int8)
            values[0, 0] = -1
            ids = tuple(task.id for task in tasks)
            run_directory.save_skills(folder, SkillMatrix(tuple(solved), ids, values))
        return folder

    return write
