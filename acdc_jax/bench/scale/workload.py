"""Tasks for members of random weights: prompts and responses of prescribed lengths.

What such members write is random, and so is its score: a coin that depends only on the response.
The scorers do what real task code does: count, solve a least-squares problem, factor a polynomial.
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
# Of ten families, six use plain Python, two numpy, and two sympy.
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
    """Tasks, and the lengths of their prompts and responses.

    Attributes:
        tasks: The tasks, with one instance each.
        prompts: Instructions → prompt tokens.
        response_lengths: Instructions → tokens of every response to them.
    """

    tasks: tuple[Task, ...]
    prompts: Mapping[str, tuple[int, ...]]
    response_lengths: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Number of tokens that one member writes."""
        return sum(self.response_lengths.values())


def mixed_workload(
    count: int, longest_prompt: int, longest_response: int, vocabulary: int, seed: int
) -> Workload:
    """Draw tasks whose lengths are those of `mixed_lengths`.

    Args:
        count: Number of tasks.
        longest_prompt: Tokens of the longest prompt.
        longest_response: Tokens of the longest response.
        vocabulary: Number of tokens that prompts are drawn from.
        seed: PRNG seed.
    """
    lengths, limits = mixed_lengths(count, longest_prompt, longest_response, seed)
    rng = np.random.default_rng(seed)
    tasks, prompts, response_lengths = [], {}, {}
    for number in range(count):
        instructions = f"Write words for {number}."
        source = _SOURCES[number % len(_SOURCES)].format(number=number)
        draft = Draft(
            f"words {number}", "Writes words.", "writing", 1, instructions, source, "novel"
        )
        data = {"1": {"number": number}}
        tasks.append(Task(task_id(number), draft, 0, data, {"1": instructions}))
        prompts[instructions] = tuple(rng.integers(0, vocabulary, int(lengths[number])).tolist())
        response_lengths[instructions] = int(limits[number])
    return Workload(tuple(tasks), prompts, response_lengths)


def as_text(tokens: tuple[int, ...]) -> str:
    """Return the text of a response: the numbers of its tokens."""
    return " ".join(map(str, tokens))
