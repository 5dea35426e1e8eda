"""Write questions as a task family: a `task.py` that needs nothing but Python."""

import ast
import inspect
import pprint
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np

from acdc_jax.tasks.gym.ideas import Idea
from acdc_jax.tasks.gym.levels import difficulty
from acdc_jax.tasks.gym.puzzles import scoring_of
from acdc_jax.tasks.gym.questions import Question, draw_questions
from acdc_jax.tasks.gym.scorers.two_answers import two_answers
from acdc_jax.tasks.task import Draft, Kind

_TEMPLATE = '''\
"""{description}

Questions of reasoning-gym {version}: {families}.
"""

{imports}

# Instance → its question, and what its score has to know.
QUESTIONS = {questions}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, Any]]:
        return {{key: {{"question": q, "facts": f}} for key, (q, f) in QUESTIONS.items()}}

    @staticmethod
    def get_instructions(t: dict[str, Any]) -> str:
        return t["question"]

    @staticmethod
    def score(t: dict[str, Any], submission: str) -> float:
        {score}


{functions}
'''
_ONE = 'return float({}(submission, t["facts"]))'
_TWO = """first, second = two_answers(submission)
        return float({}(first, t["facts"][0]) and {}(second, t["facts"][1]))"""
_BOTH = """\
Answer two questions. Write the answer to the first behind "First:" and, on a new line, the answer \
to the second behind "Second:". Both must be right.

First question:
{}

Second question:
{}"""
_LONGEST_OF_TWO = 1200  # characters of a question that is asked together with another


def write_draft(
    idea: Idea,
    kind: Kind,
    parent: str | None,
    instances: int,
    rng: np.random.Generator,
    accepts: Callable[[str], bool],
) -> Draft:
    """Write a family of reasoning-gym at some levels, or two whose questions are asked together.

    Args:
        idea: What to ask.
        kind: Kind of the draft.
        parent: Id of the task that it was made from, if any.
        instances: Number of questions.
        rng: Draws them.
        accepts: Whether a question's text may be used. Each question of two must be accepted.

    Raises:
        NoQuestionsError: There are too few questions.
        AcdcError: reasoning-gym is not installed.
    """
    longest = None if len(idea) == 1 else _LONGEST_OF_TWO

    def fits(text: str) -> bool:
        return accepts(text) and (longest is None or len(text) <= longest)

    drawn = [draw_questions(part.family.name, part.levels, instances, rng, fits) for part in idea]
    entries = {
        str(i + 1): _entry(questions) for i, questions in enumerate(zip(*drawn, strict=True))
    }
    raised = [f"{name} {level}" for part in idea for name, level in part.levels.items() if level]
    harder = f" Harder in {', '.join(raised)}." if raised else ""
    description = " ".join(part.family.description for part in idea) + harder
    difficulties = [difficulty(part.family.name, part.levels) for part in idea]
    return Draft(
        name="-and-".join(
            "-".join([part.family.name, *map(str, part.levels.values())]) for part in idea
        ),
        description=f"Two questions at once: {description}" if len(idea) > 1 else description,
        capability=" and ".join(dict.fromkeys(part.family.category for part in idea)),
        difficulty=min(5, max(difficulties) + len(idea) - 1),
        example_instruction=entries["1"][0],
        source=_source(idea, {key: [text, facts] for key, (text, _, facts) in entries.items()}),
        kind=kind,
        parent=parent,
        reference={key: answer for key, (_, answer, _) in entries.items()},
        metadata={
            "parts": [
                {
                    "family": part.family.name,
                    "levels": dict(part.levels),
                    "seeds": [list(question.seeds) for question in questions],
                }
                for part, questions in zip(idea, drawn, strict=True)
            ]
        },
    )


def _entry(questions: Sequence[Question]) -> tuple[str, str, Any]:
    """Return the text, a right answer and the facts of one question, or of two asked together."""
    if len(questions) == 1:
        return questions[0].text, questions[0].answer, questions[0].facts
    first, second = questions
    answer = f"First: {first.answer}\nSecond: {second.answer}"
    return _BOTH.format(first.text, second.text), answer, [first.facts, second.facts]


def _source(idea: Idea, questions: dict[str, Any]) -> str:
    """Return the text of `task.py`."""
    scores = [scoring_of(part.family.name).is_right for part in idea]
    functions = [*([two_answers] if len(idea) > 1 else []), *scores]
    modules = [_parts_of(inspect.getmodule(function)) for function in dict.fromkeys(functions)]
    lines = {line for imports, _ in modules for line in imports} | {"from typing import Any"}
    return _TEMPLATE.format(
        description=" ".join(part.family.description for part in idea),
        version=version("reasoning-gym"),
        families=" and ".join(part.family.name for part in idea),
        imports="\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line))),
        questions=pprint.pformat(questions, width=100, sort_dicts=False),
        score=(_ONE if len(idea) == 1 else _TWO).format(*(score.__name__ for score in scores)),
        functions="\n\n\n".join(text for _, text in modules),
    )


def _parts_of(module: ModuleType | None) -> tuple[list[str], str]:
    """Return the lines that a module imports with, and the text of its functions."""
    assert module is not None
    source = inspect.getsource(module)
    nodes = ast.parse(source).body
    imports = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    first = next(node for node in nodes if isinstance(node, ast.FunctionDef))
    return imports, "\n".join(source.splitlines()[first.lineno - 1 :])
