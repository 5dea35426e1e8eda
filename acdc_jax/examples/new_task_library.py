"""A task library of your own: families of arithmetic, made by a function.

A family is a Python class with three static methods, as text: it runs only in the sandbox.
`acdc_jax.evaluate` takes the drafts as they are. For `acdc run --seed_families=arithmetic`, or
`--held_out=arithmetic`, register the function in your package's `pyproject.toml`:

    [project.entry-points."acdc_jax.seed_families"]
    arithmetic = "my_package.tasks:arithmetic"

A folder with one folder per family (`task.py`, `task.json`) works too: see
`acdc_jax/tasks/families/general`.
"""

import sys
from collections.abc import Sequence

import acdc_jax as acdc
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.task import Draft

_SOURCE = """
import random


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, int]]:
        rng = random.Random({seed})
        numbers = range(1, {largest} + 1)
        return {{str(i): {{"a": rng.choice(numbers), "b": rng.choice(numbers)}} for i in range(4)}}

    @staticmethod
    def get_instructions(t: dict[str, int]) -> str:
        return f"What is {{t['a']}} {operator} {{t['b']}}?"

    @staticmethod
    def score(t: dict[str, int], submission: str) -> float:
        return float(submission.strip() == str(t["a"] {operator} t["b"]))
"""


def arithmetic(prng_seed: int, options: TaskPoolOptions) -> Sequence[Draft]:
    """Return families of sums, differences and products with small and large numbers.

    Args:
        prng_seed: The run's; the numbers depend on it.
        options: The run's flags for tasks; none matters here.
    """
    del options
    return [
        Draft(
            name=f"{name} up to {largest}",
            description=f"Compute {name} of two numbers up to {largest}.",
            capability="arithmetic",
            difficulty=difficulty,
            example_instruction=f"What is 3 {operator} 4?",
            source=_SOURCE.format(seed=prng_seed, largest=largest, operator=operator),
            kind="seed",
        )
        for name, operator in (("sums", "+"), ("differences", "-"), ("products", "*"))
        for difficulty, largest in ((1, 9), (3, 99))
    ]


if __name__ == "__main__":
    names = sys.argv[1:]
    skills = acdc.evaluate([acdc.load_hf(name) for name in names], arithmetic(0, TaskPoolOptions()))
    for name, row in zip(names, skills, strict=True):
        print(name, row)
