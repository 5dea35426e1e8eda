"""What members are asked: prompts and responses of given lengths, scored by real task code.

The members are random, so that what they write is too; its length is prescribed, and its score is
a coin that falls the same way every time. The scorers do with it what task code does: count, solve
a least-squares problem, factor a polynomial.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from acdc_jax.bench.decode import mixed_lengths
from acdc_jax.tasks.pool import task_id
from acdc_jax.tasks.task import Draft, Task

_HEAD = '''"""Family {number}."""
{imports}

class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return {{"1": {{"number": {number}}}}}

    @staticmethod
    def get_instructions(t: dict) -> str:
        return f"Write words for {{t['number']}}."

    @staticmethod
    def score(t: dict, submission: str) -> float:
        numbers = [int(word) for word in submission.split()]
'''
_COIN = "        return float((sum(numbers) + t['number']{}) % 2)\n"
_NUMPY = """        y = np.asarray(numbers, float)
        x = np.vander(np.linspace(-1, 1, len(y)), 4)
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
"""
_SYMPY = """        x = sympy.Symbol("x")
        factors = sympy.factor_list(sum(n * x**i for i, n in enumerate(numbers[:4])) + 1)[1]
"""
# Of ten families, six use plain Python, two numpy, two sympy: text that a scorer may execute.
_SOURCES = (
    *[_HEAD.replace("{imports}", "") + _COIN.format("")] * 6,
    *[
        _HEAD.replace("{imports}", "import numpy as np\n")
        + _NUMPY
        + _COIN.format(" + len(residual)")
    ]
    * 2,
    *[_HEAD.replace("{imports}", "import sympy\n") + _SYMPY + _COIN.format(" + len(factors)")] * 2,
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is asked, and how long the answers are.

    Attributes:
        tasks: with one instance each.
        prompts: instructions → tokens.
        longest: instructions → tokens of every response to them.
    """

    tasks: tuple[Task, ...]
    prompts: Mapping[str, tuple[int, ...]]
    longest: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Tokens that one member writes."""
        return sum(self.longest.values())


def mixed_workload(
    count: int, longest_prompt: int, longest_response: int, vocabulary: int, seed: int
) -> Workload:
    """Draws so many tasks; lengths are those of `mixed_lengths`."""
    lengths, limits = mixed_lengths(count, longest_prompt, longest_response, seed)
    rng = np.random.default_rng(seed)
    tasks, prompts, longest = [], {}, {}
    for number in range(count):
        asked = f"Write words for {number}."
        source = _SOURCES[number % len(_SOURCES)].format(number=number)
        draft = Draft(f"words {number}", "Writes words.", "writing", 1, asked, source, "novel")
        tasks.append(Task(task_id(number), draft, 0, {"1": {"number": number}}, {"1": asked}))
        prompts[asked] = tuple(rng.integers(0, vocabulary, int(lengths[number])).tolist())
        longest[asked] = int(limits[number])
    return Workload(tuple(tasks), prompts, longest)


def as_text(tokens: tuple[int, ...]) -> str:
    """The words that a response's tokens stand for."""
    return " ".join(map(str, tokens))
