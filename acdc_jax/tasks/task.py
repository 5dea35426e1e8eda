"""Task families: a `Draft` that passes the check is a `CheckedDraft`, and becomes a `Task` if new.

On disk, a family is a folder with `task.py` (class `TaskFamily` with static `get_tasks`,
`get_instructions` and `score`, as in the METR task standard) and `task.json` (everything else).
The source is untrusted; nothing in this file executes it.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from acdc_jax.errors import AcdcError

Json = Any  # what `json.loads` returns
Kind = Literal["seed", "novel", "inspired", "harder", "easier", "related"]
Cause = Literal["draft", "infrastructure"]


@dataclasses.dataclass(frozen=True)
class Draft:
    """A task family as its author wrote it, unchecked.

    Attributes:
        name: Short identifier, unique only within its lineage.
        description: What a member has to do, in one or two sentences.
        capability: The skill that the family exercises.
        difficulty: The author's estimate, 1 (easy) to 5.
        example_instruction: The instructions of one instance.
        source: Text of `task.py`.
        kind: The kind of draft that was requested.
        parent: Id of the task that it started from, if any.
        reference: Instance key → a submission that must pass, if there is one.
        metadata: Notes of the author, for drafts that start from this task.
    """

    name: str
    description: str
    capability: str
    difficulty: int
    example_instruction: str
    source: str
    kind: Kind
    parent: str | None = None
    reference: Mapping[str, str] | None = None
    metadata: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    @property
    def asks_judge(self) -> bool:
        """Whether the family's scores may come from the LLM judge."""
        return "eval_with_llm_judge" in self.source

    def text(self) -> str:
        """Return the text that is embedded: name, description and capability.

        The example is left out, so that the same idea with other material is not new.
        """
        return f"{self.name}\n{self.description}\n{self.capability}"


@dataclasses.dataclass(frozen=True)
class CheckedDraft:
    """A draft that passed the check.

    Attributes:
        draft: The draft.
        instances: Instance key → what `get_tasks()` returned for it.
        instructions: Instance key → text of `get_instructions`.
        advice: What right answers scored, for the author.
    """

    draft: Draft
    instances: Mapping[str, Json]
    instructions: Mapping[str, str]
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a draft did not become a task.

    Attributes:
        kind: The kind of draft that was requested.
        parent: Id of the task to start from, if any.
        name: The draft's name; empty if there is no draft.
        reason: The reason, in one line.
        source: The draft's source, if there is any.
        cause: "infrastructure" if a server or the sandbox failed, so that nothing is known about
            the draft.
        advice: More for the author: what may be wrong, and what right answers scored.
    """

    kind: Kind
    parent: str | None
    name: str
    reason: str
    source: str = ""
    cause: Cause = "draft"
    advice: str = ""

    @classmethod
    def of_draft(
        cls,
        draft: Draft,
        reason: str,
        cause: Cause = "draft",
        advice: str = "",
    ) -> "Rejection":
        """Return the rejection of `draft` for `reason`."""
        return cls(draft.kind, draft.parent, draft.name, reason, draft.source, cause, advice)


@dataclasses.dataclass(frozen=True)
class Task:
    """An accepted task family.

    Attributes:
        id: E.g. `t00012`; a run never reuses an id.
        draft: What its author wrote.
        generation: The generation in which it was accepted.
        instances: Instance key → what `get_tasks()` returned for it.
        instructions: Instance key → text of `get_instructions`.
    """

    id: str
    draft: Draft
    generation: int
    instances: Mapping[str, Json]
    instructions: Mapping[str, str]


def save_task(task: Task, folder: Path) -> None:
    """Write `task.py` and `task.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.py").write_text(task.draft.source, encoding="utf-8")
    draft = dataclasses.asdict(task.draft)
    del draft["source"]
    lineage = {key: draft.pop(key) for key in ("parent", "kind")}
    record = draft | {
        "id": task.id,
        "lineage": lineage | {"generation": task.generation},
        "instances": dict(task.instances),
        "instructions": dict(task.instructions),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / "task.json").write_text(text, encoding="utf-8")


def load_draft(folder: Path) -> Draft:
    """Read a family's folder, without running any of it.

    Raises:
        AcdcError: A file is missing, or `task.json` lacks a field; the message names it.
    """
    return _draft(folder, _read_json(folder))


def load_task(folder: Path) -> Task:
    """Read an accepted task from a folder that `save_task` wrote.

    Raises:
        AcdcError: A file is missing, or `task.json` lacks a field; the message names it.
    """
    record = _read_json(folder)
    draft = _draft(folder, record)
    try:
        return Task(
            id=record["id"],
            draft=draft,
            generation=record["lineage"]["generation"],
            instances=record["instances"],
            instructions=record["instructions"],
        )
    except KeyError as error:
        raise AcdcError(f"{folder / 'task.json'}: field {error} is missing") from None


def _read_json(folder: Path) -> dict[str, Json]:
    """Read `task.json`."""
    try:
        record = json.loads((folder / "task.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise AcdcError(f"{folder / 'task.json'}: cannot be read ({error})") from None
    if not isinstance(record, dict):
        raise AcdcError(f"{folder / 'task.json'}: must hold one JSON object")
    return record


def _draft(folder: Path, record: dict[str, Json]) -> Draft:
    """Return the draft of a folder, given its `task.json`."""
    try:
        return Draft(
            name=record["name"],
            description=record["description"],
            capability=record["capability"],
            difficulty=record["difficulty"],
            example_instruction=record["example_instruction"],
            source=(folder / "task.py").read_text(encoding="utf-8-sig"),
            kind=record["lineage"]["kind"],
            parent=record["lineage"]["parent"],
            reference=record.get("reference"),
            metadata=record.get("metadata", {}),
        )
    except KeyError as error:
        raise AcdcError(f"{folder / 'task.json'}: field {error} is missing") from None
    except OSError as error:
        raise AcdcError(f"{folder / 'task.py'}: cannot be read ({error.strerror})") from None
