"""Filters for the harness's YAML files, by which they extract answers as this project does."""

from collections.abc import Sequence
from typing import Any

from acdc_jax.tasks.answer_extraction import extract_answer


def declared_answers(
    responses: Sequence[Sequence[str]], documents: Sequence[Any]
) -> list[list[str]]:
    """The answer that each response declares; see `extract_answer`."""
    return [[extract_answer(response) for response in own] for own in responses]
