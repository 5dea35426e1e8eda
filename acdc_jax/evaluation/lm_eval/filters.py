"""Filters for the harness's YAML files: they extract answers as this project does."""

from collections.abc import Sequence
from typing import Any

from acdc_jax.tasks.answer_extraction import extract_answer


def declared_answers(
    responses: Sequence[Sequence[str]], documents: Sequence[Any]
) -> list[list[str]]:
    """Return the answer that each response declares; see `extract_answer`.

    Args:
        responses: [documents][responses] texts.
        documents: Ignored; the harness passes them.
    """
    return [[extract_answer(response) for response in of_document] for of_document in responses]
