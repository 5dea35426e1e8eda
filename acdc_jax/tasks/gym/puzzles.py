"""How answers are scored: the function, and what it has to know about a question.

Most families have one right answer. Of questions whose answers are easy to guess, such as yes or
no, several are asked at once, and all answers must be right. Puzzles with many solutions have
scores of their own. Those of reasoning-gym are not used: some execute the answer, many give points
to wrong ones, and a task would need the package wherever it is scored.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from acdc_jax.tasks.gym.scorers.anagrams import anagrams
from acdc_jax.tasks.gym.scorers.buttons import buttons
from acdc_jax.tasks.gym.scorers.coloring import coloring
from acdc_jax.tasks.gym.scorers.cryptarithm import cryptarithm
from acdc_jax.tasks.gym.scorers.expression import expression
from acdc_jax.tasks.gym.scorers.grid_path import grid_path
from acdc_jax.tasks.gym.scorers.hanoi import hanoi
from acdc_jax.tasks.gym.scorers.in_order import in_order
from acdc_jax.tasks.gym.scorers.jugs import jugs
from acdc_jax.tasks.gym.scorers.kakurasu import kakurasu
from acdc_jax.tasks.gym.scorers.lowest_terms import lowest_terms
from acdc_jax.tasks.gym.scorers.one_answer import one_answer
from acdc_jax.tasks.gym.scorers.palindrome import palindrome
from acdc_jax.tasks.gym.scorers.queens import queens
from acdc_jax.tasks.gym.scorers.same_json import same_json

_Item = Mapping[str, Any]  # the metadata of a question


def _answer(item: _Item, answer: str) -> str:
    return answer


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How the answers of a family are scored.

    Attributes:
        is_right: Returns whether a text is a right answer; the function of a module of `scorers`.
        facts: Returns what `is_right` has to know, from reasoning-gym's metadata and answer.
        solution: Returns a right answer, from the same.
        at_once: Number of questions that are asked at once; `is_right` gets a list of their facts.
    """

    is_right: Callable[[str, Any], bool] = one_answer
    facts: Callable[[_Item, str], Any] = _answer
    solution: Callable[[_Item, str], str] = _answer
    at_once: int = 1


def scoring_of(family: str) -> Scoring:
    """Return how the answers of a family of reasoning-gym are scored."""
    return PUZZLES.get(family, Scoring())


_FOUR_AT_ONCE = Scoring(in_order, at_once=4)
PUZZLES = {
    "binary_alternation": _FOUR_AT_ONCE,
    "course_schedule": _FOUR_AT_ONCE,
    "self_reference": _FOUR_AT_ONCE,
    "countdown": Scoring(
        expression,
        lambda item, _: {"numbers": list(item["numbers"]), "target": item["target"]},
    ),
    "cryptarithm": Scoring(
        cryptarithm,
        lambda item, _: {
            "words": list(item["words_letters"]),
            "result": item["result_letters"],
            "leading_zeros": item["allow_leading_zero"],
        },
    ),
    "fraction_simplification": Scoring(
        lowest_terms,
        lambda item, _: [item["simplified_numerator"], item["simplified_denominator"]],
    ),
    "game_of_life": Scoring(same_json, lambda _, answer: json.loads(answer)),
    "graph_color": Scoring(
        coloring,
        lambda item, _: {
            "vertices": list(item["puzzle"]["vertices"]),
            "edges": [list(edge) for edge in item["puzzle"]["edges"]],
            "colors": list(item["puzzle"]["color_options"]),
        },
        lambda item, _: json.dumps({str(k): v for k, v in item["possible_answer"].items()}),
    ),
    "group_anagrams": Scoring(anagrams, lambda _, answer: json.loads(answer)),
    "jugs": Scoring(
        jugs,
        lambda item, _: {
            "capacities": list(item["puzzle"]["jug_capacities"]),
            "target": item["puzzle"]["target"],
        },
    ),
    "kakurasu": Scoring(
        kakurasu,
        lambda item, _: {"rows": list(item["row_sums"]), "columns": list(item["col_sums"])},
    ),
    "n_queens": Scoring(queens, lambda item, _: ["".join(row) for row in item["puzzle"]]),
    "palindrome_generation": Scoring(palindrome, lambda item, _: "".join(item["letters"])),
    "puzzle24": Scoring(
        expression, lambda item, _: {"numbers": list(item["numbers"]), "target": 24}
    ),
    "quantum_lock": Scoring(
        buttons,
        lambda item, _: {
            "start": item["initial_value"],
            "light": item["initial_state"],
            "target": item["target_value"],
            "presses": len(item["solution_path"]),
            "buttons": {
                button["name"]: {
                    "does": button["type"],
                    "by": button["value"],
                    "when": button["active_state"],
                }
                for button in item["buttons"]
            },
        },
    ),
    "shortest_path": Scoring(
        grid_path,
        lambda item, answer: {
            "rows": ["".join(row) for row in item["matrix"]],
            "steps": len(answer.split()),
        },
    ),
    "tower_of_hanoi": Scoring(
        hanoi,
        lambda item, _: {
            "disks": item["num_disks"],
            "pegs": item["num_pegs"],
            "start": item["start_peg"],
            "target": item["target_peg"],
            "most_moves": item["solution_length"],
        },
    ),
}
