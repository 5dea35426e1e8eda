"""`evaluate` of the public API: models × tasks → skills."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from acdc_jax.evaluation.evaluate_models import evaluate
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models.model import Model, load_hf
from acdc_jax.tasks.task import Draft, Task

_SOURCE = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {"0": "a", "1": "b"}

    @staticmethod
    def get_instructions(t):
        return "say " + t

    @staticmethod
    def score(t, submission):
        return 1.0 if %s else 0.0
"""


def _draft(name: str, condition: str) -> Draft:
    return Draft(name, "d", "c", 1, "say a", _SOURCE % condition, "novel")


@pytest.fixture(scope="module")
def model(models: tuple[Path, Path, Path]) -> Model:
    return load_hf(models[1])


def test_skills_of_models(model: Model) -> None:
    # A random model never ends its response, which is cut: it has no answer.
    never = _draft("never", "submission == 'the right answer'")
    instances = {"0": "a", "1": "b"}
    nothing = Task("t", _draft("nothing", "submission == ''"), 0, instances, instances)
    skills = evaluate([model, model], [never, nothing], max_new_tokens=4)
    assert skills.dtype == np.int8
    assert skills.tolist() == [[0, 1], [0, 1]]


def test_drafts_in_a_notebook(model: Model) -> None:
    """There, an event loop is running in the caller's thread."""

    async def cell() -> list[list[int]]:
        return evaluate([model], [_draft("never", "False")], max_new_tokens=4).tolist()  # type: ignore[no-any-return]

    assert asyncio.run(cell()) == [[0]]


def test_bad_arguments(model: Model) -> None:
    with pytest.raises(ValueError, match="at least one model"):
        evaluate([], [_draft("x", "False")])
    with pytest.raises(ValueError, match="needs a key"):
        evaluate([model], [_draft("x", "False")], sampling=Sampling(1.0))
    with pytest.raises(ValueError, match="instances_per_task must be positive"):
        evaluate([model], [_draft("x", "False")], instances_per_task=0)
    with pytest.raises(ValueError, match=r"draft junk is not valid: .*passed by junk"):
        evaluate([model], [_draft("junk", "True")])
