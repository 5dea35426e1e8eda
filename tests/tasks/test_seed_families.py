"""Every seed family accepts its reference and nothing else, in the real sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acdc_jax.errors import ConfigError
from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.seed_families import SETS, seed_families
from acdc_jax.tasks.task import CheckedDraft
from acdc_jax.tasks.validate import check_drafts

_JUDGED = "eval_with_llm_judge"
_GENERAL = seed_families("general")
_REFERENCES = {
    text.strip() for draft in _GENERAL if draft.reference for text in draft.reference.values()
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """With a judge that knows what is good."""

    def judge(instructions: str, submission: str, criteria: str) -> float:
        assert instructions
        assert criteria
        return 0.9 if submission.strip() in _REFERENCES else 0.1

    with Sandbox(2, Limits(), judge=judge, judge_workers=4) as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", SETS)
def test_all_are_accepted_with_a_reference_for_every_instance(name: str, sandbox: Sandbox) -> None:
    drafts = seed_families(name)
    for draft, verdict in zip(drafts, check_drafts(drafts, sandbox, 0.5), strict=True):
        assert isinstance(verdict, CheckedDraft), f"{draft.name}: {verdict}"
        assert draft.reference is not None
        assert set(draft.reference) == set(verdict.instances)
        assert draft.example_instruction == next(iter(verdict.instructions.values()))


def test_references_answer_their_own_instance_only(sandbox: Sandbox) -> None:
    for draft in _GENERAL:
        if _JUDGED in draft.source:
            continue
        assert draft.reference is not None
        instances = sandbox.inspect(draft.source).result().tasks
        keys = list(instances)
        items = [(instances[k], draft.reference[j]) for k in keys for j in keys if j != k]
        for outcome in sandbox.score(draft.source, items).result():
            assert outcome.score == 0.0, f"{draft.name}: {outcome}"


def test_the_general_set_spans_what_it_should() -> None:
    assert len(_GENERAL) >= 12
    assert len({draft.name for draft in _GENERAL}) == len(_GENERAL)
    assert 3 <= sum(_JUDGED in draft.source for draft in _GENERAL) <= len(_GENERAL) // 2
    for area in (
        *("knowledge", "mathematics", "code", "logic", "language"),
        *("instruction following", "creativity"),
    ):
        assert sum(area in draft.capability for draft in _GENERAL) >= 2, area


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder with families"):
        seed_families(str(tmp_path))
    root = Path(__file__).parents[2] / "acdc_jax" / "tasks" / "families" / "general"
    assert seed_families(str(root)) == _GENERAL
