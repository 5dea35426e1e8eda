"""Every seed family accepts its reference and nothing else, in the real sandbox."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from acdc_jax import plugins
from acdc_jax.errors import AcdcError, ConfigError, raise_all
from acdc_jax.evaluation.held_out import held_out_tasks, measured_tasks
from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.chosen_families import PromptRoom, check_chosen, check_rooms
from acdc_jax.tasks.task import CheckedDraft
from acdc_jax.tasks.task_sets import (
    check_held_out,
    families_in,
    general,
    load_held_out,
    load_seed_families,
)
from acdc_jax.tasks.validate import check_drafts
from tests.support.short_runs import write_families

_JUDGED = "eval_with_llm_judge"
_GENERAL = general(0)
_REFERENCES = {
    text.strip() for draft in _GENERAL if draft.reference for text in draft.reference.values()
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Return a sandbox with a judge that knows the references."""

    def judge(instructions: str, submission: str, criteria: str) -> float:
        assert instructions
        assert criteria
        return 0.9 if submission.strip() in _REFERENCES else 0.1

    with Sandbox(2, Limits(), judge=judge, judge_workers=4) as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", plugins.registered_names(plugins.SEED_FAMILIES))
def test_all_are_accepted_with_a_reference_for_every_instance(name: str, sandbox: Sandbox) -> None:
    if name == "gym":
        pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (extra gym)")
    drafts = load_seed_families(name, 0)
    for draft, verdict in zip(drafts, check_drafts(drafts, sandbox, 0.5), strict=True):
        assert isinstance(verdict, CheckedDraft), f"{draft.name}: {verdict}"
        assert draft.reference is not None
        assert set(draft.reference) == set(verdict.instances)
        assert verdict.draft == draft  # no instance can be guessed, and no reference is wrong
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


def test_the_general_set_covers_all_areas() -> None:
    assert len(_GENERAL) >= 12
    assert len({draft.name for draft in _GENERAL}) == len(_GENERAL)
    assert 3 <= sum(_JUDGED in draft.source for draft in _GENERAL) <= len(_GENERAL) // 2
    for area in (
        *("knowledge", "mathematics", "code", "logic", "language"),
        *("instruction following", "creativity"),
    ):
        assert sum(area in draft.capability for draft in _GENERAL) >= 2, area


def test_a_folder_of_families(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no task families there.*registered: general, gym, tiny"
    ):
        load_seed_families(str(tmp_path), 0)
    root = Path(__file__).parents[2] / "acdc_jax" / "tasks" / "families" / "general"
    assert load_seed_families(str(root), 0) == _GENERAL
    assert load_held_out([str(root)], 0) == {str(root): _GENERAL}
    assert families_in(tmp_path) == []


def test_held_out_families_must_be_new_to_the_run() -> None:
    assert load_held_out(None, 0) == {}
    held_out = load_held_out(["tiny"], 0)
    assert held_out == load_held_out(["tiny"], 0)
    assert held_out != load_held_out(["tiny"], 1)
    check_held_out(held_out, load_seed_families("tiny", 0))
    with pytest.raises(ConfigError, match=r"--held_out=exam: .* remove it from the held-out set"):
        check_held_out({**held_out, "exam": [_GENERAL[2]]}, _GENERAL)


def test_a_held_out_family_is_in_one_set(tmp_path: Path) -> None:
    write_families([_GENERAL[2]], tmp_path)
    sets = load_held_out(["tiny", str(tmp_path)], 0)
    assert list(sets) == ["tiny", str(tmp_path)]
    with pytest.raises(ConfigError) as error:
        load_held_out(["general", str(tmp_path)], 0)
    assert f"--held_out={tmp_path}: the family {_GENERAL[2].name!r} is in general" in str(error)


def test_ids_of_held_out_tasks_follow_from_their_families(sandbox: Sandbox) -> None:
    tiny = load_held_out(["tiny"], 0)["tiny"][:4]
    checked = check_chosen([("held-out task", draft) for draft in tiny], sandbox, 0.5)
    sets = held_out_tasks({"some": tiny[2:], "others": tiny[:2]}, checked)
    assert [task.draft for task in sets["others"]] == tiny[:2]
    ids = [task.id for task in measured_tasks(sets)]
    assert len(set(ids)) == 4
    (whole,) = held_out_tasks({"all": tiny}, checked).values()
    assert [task.id for task in whole] == ids[2:] + ids[:2]


def test_all_faults_of_families_are_told_at_once(tmp_path: Path, sandbox: Sandbox) -> None:
    drafts = [dataclasses.replace(_GENERAL[2], name=f"f{i}") for i in range(3)]
    drafts[0] = dataclasses.replace(drafts[0], source="oops")
    drafts[2] = dataclasses.replace(drafts[2], reference={"no such instance": ""})
    families = [("seed task family", draft) for draft in drafts]
    with pytest.raises(AcdcError) as error:
        check_chosen(families, sandbox, 0.5)
    first, last = str(error.value).splitlines()
    assert first.startswith("seed task family f0 is not valid: the source defines no class")
    assert last.startswith("seed task family f2 is not valid: the reference is for instance")
    checked = check_chosen(families[1:2], sandbox, 0.5)
    check_rooms(families, checked, PromptRoom(str.encode, 10_000))
    with pytest.raises(ConfigError, match="seed task family f1: its instructions take"):
        check_rooms(families, checked, PromptRoom(str.encode, 10))

    write_families(drafts, tmp_path)
    for name in ("000", "002"):
        (tmp_path / name / "task.json").write_text("{}")
    with pytest.raises(AcdcError) as error:
        families_in(tmp_path)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [
        str(tmp_path / name / "task.json") for name in ("000", "002")
    ]


def test_many_faults_are_counted() -> None:
    with pytest.raises(AcdcError) as error:
        raise_all([ConfigError(f"fault {i}") for i in range(30)] + [AcdcError("fault 0")])
    lines = str(error.value).splitlines()
    assert (lines[0], lines[19:], len(lines)) == ("fault 0", ["fault 19", "and 10 more faults"], 21)
    assert not isinstance(error.value, ConfigError)
    raise_all([])
